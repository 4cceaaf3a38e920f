"""When the memory of a GPU counts as short. Pure.

A model server takes most of a card's memory when it starts, and keeps it: that alone shows nothing of the tasks, and
fewer tasks would not free it. So a card counts only while its use grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisor.readings import Gpu

SETTLE_S = 10.0  # after the model is ready: what it takes until then is its own
GROWTH = 1.0  # percent of the card: smaller changes are none
GROWS_S = 60.0  # for so long after it grew last, a card counts; what stays longer is not the tasks' any more


@dataclass(slots=True)
class Use:
    """What is known of one card."""

    percent: float  # in use when it changed last
    grown_at: float = field(default=float("-inf"))  # monotonic


class GpuMemory:
    """Which share of a card's memory the brake of the cap is to see."""

    def __init__(self) -> None:
        self._uses: dict[str, Use] = {}
        self._settled_at = float("inf")

    def model_ready(self, at: float) -> None:
        """The model server has started, or started again: what it took was no task's."""
        self._settled_at = at + SETTLE_S
        self._uses.clear()

    def observe(self, at: float, gpus: Sequence[Gpu]) -> tuple[float, str]:
        """Take in one reading.

        Returns:
            Percent in use of the fullest card whose use grows, and its number; 0 and "" if there is none.
        """
        growing = [(gpu.memory_percent, gpu.number) for gpu in gpus if self._is_growing(at, gpu)]
        return max(growing, default=(0.0, ""))

    def _is_growing(self, at: float, gpu: Gpu) -> bool:
        use = self._uses.setdefault(gpu.number, Use(gpu.memory_percent))
        if abs(gpu.memory_percent - use.percent) > GROWTH:
            if gpu.memory_percent > use.percent and at > self._settled_at:
                use.grown_at = at
            use.percent = gpu.memory_percent
        return at - use.grown_at < GROWS_S
