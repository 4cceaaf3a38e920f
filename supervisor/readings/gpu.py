"""One reading of a GPU: machine/gpu.py makes it; the cap, the page and the metrics use it. A leaf.

It imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One reading of one GPU. Memory is the card's own, used by any program."""

    number: str  # as nvidia-smi and the driver count: "0", "1"
    name: str
    memory_used_bytes: int
    memory_limit_bytes: int
    load_percent: float | None = None  # None: the driver does not report it
    temperature_c: float | None = None

    @property
    def memory_percent(self) -> float:
        """How much of its memory is in use, 0 to 100."""
        return 100.0 * self.memory_used_bytes / self.memory_limit_bytes
