"""A stand-in for pynvml (nvidia-ml-py), as far as the node uses it: cards with made-up readings and faults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """The base of all errors of the library."""


class NvmlStandin:
    """Has the library's names. A figure that is None is not supported by the card."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *cards: dict[str, Any], driver_answers: bool = True) -> None:
        self.cards = list(cards)
        self.driver_answers = driver_answers

    def nvmlInit(self) -> None:
        if not self.driver_answers:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        self.nvmlInit()
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if self.cards[number].get("is_lost"):
            raise NVMLError("GPU is lost")
        return number

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        name: str | bytes = self.cards[handle]["name"]
        return name

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        total, used = self._figure(handle, "total"), self._figure(handle, "used")
        return SimpleNamespace(total=total, used=used, free=total - used)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._figure(handle, "load"), memory=0)

    def nvmlDeviceGetTemperature(self, handle: int, _sensor: int) -> int:
        return self._figure(handle, "temperature")

    def _figure(self, handle: int, name: str) -> int:
        value = self.cards[handle].get(name)
        if value is None:
            raise NVMLError("Not Supported")
        return int(value)
