"""Readings of GPUs: NVIDIA's through nvidia-ml-py (the extra `gpu`), AMD's from sysfs. Only this module imports pynvml.

Without a GPU nothing is imported and nothing is read.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.readings import Gpu

log = logging.getLogger(__name__)

# One of these exists where NVIDIA's driver runs; the last is that of WSL.
NVIDIA_DRIVER = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg")
AMD_CARDS = "sys/class/drm/card[0-9]*/device/mem_info_vram_total"


ReadGpus = Callable[[], tuple[Gpu, ...]]


def find_gpus(root: Path = Path("/")) -> ReadGpus | None:
    """Return what reads this machine's GPUs; None: it has none, or none that can be read.

    Args:
        root: the file system's root; another one for recorded files.
    """
    if any((root / path).exists() for path in NVIDIA_DRIVER):
        with contextlib.suppress(ImportError):
            import pynvml

            return NvidiaGpus.found(pynvml)
        advice = "pip install 'workernode[gpu]'"
        log.warning("the GPU's readings need nvidia-ml-py: %s", advice, extra={"event": "gpu_unread"})
    cards = sorted(path.parent for path in root.glob(AMD_CARDS))
    return (lambda: tuple(gpu for card in cards for gpu in read_amd(card))) if cards else None


class NvidiaGpus:
    """Reads all GPUs of NVIDIA's driver. A GPU that cannot be read is left out."""

    def __init__(self, nvml: Any) -> None:
        """Use the library, which was initialised."""
        self._nvml = nvml

    @classmethod
    def found(cls, nvml: Any) -> ReadGpus | None:
        """Return what reads the GPUs; None, and a line in the log, if the driver does not answer.

        Args:
            nvml: the module pynvml.
        """
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            log.warning("the GPU cannot be read: %s", error, extra={"event": "gpu_unread"})
            return None
        return cls(nvml).read

    def read(self) -> tuple[Gpu, ...]:
        """Return the readings of now."""
        count = self._figure(self._nvml.nvmlDeviceGetCount)
        return tuple(gpu for number in range(int(count or 0)) for gpu in self._read_one(number))

    def _read_one(self, number: int) -> list[Gpu]:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            memory, name = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError:  # a card that has failed, or one without memory of its own
            return []
        if not memory.total:
            return []
        name = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        load = self._figure(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        temperature = self._figure(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        return [Gpu(str(number), name, int(memory.used), int(memory.total), load, temperature)]

    def _figure(self, read: Callable[[], float]) -> float | None:
        try:
            return float(read())
        except self._nvml.NVMLError:  # older cards do not report everything
            return None


def read_amd(device: Path) -> list[Gpu]:
    """Return the reading of a card of AMD's driver (amdgpu), from its folder in sysfs; empty if it cannot be read.

    The files are those of the kernel's page "AMDGPU sysfs": bytes, percent, and thousandths of a degree.
    """
    used, limit = _number(device / "mem_info_vram_used"), _number(device / "mem_info_vram_total")
    if used is None or not limit:
        return []
    temperatures = [_number(path) for path in sorted(device.glob("hwmon/hwmon*/temp1_input"))]
    temperature = next((value / 1000 for value in temperatures if value is not None), None)
    number = device.parent.name.removeprefix("card")
    load = _number(device / "gpu_busy_percent")
    return [Gpu(number, _text(device / "product_name") or "AMD", int(used), int(limit), load, temperature)]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeError):
        return path.read_text().strip()
    return ""


def _number(path: Path) -> float | None:
    with contextlib.suppress(ValueError):
        return float(_text(path))
    return None
