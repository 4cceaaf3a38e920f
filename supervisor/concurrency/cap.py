"""The dynamic cap (spec 5): samples in, a number and its reason out. Pure; the clock is in the samples.

Memory comes first (memory_brake.py), then the queue of the engine (queue_brake.py). Otherwise the cap is where most
tokens per second came (cap_search.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.concurrency.cap_search import CapSearch
from supervisor.concurrency.memory_brake import MemoryBrake
from supervisor.concurrency.queue_brake import QueueBrake
from supervisor.concurrency.sample import Sample


@dataclass(frozen=True, slots=True)
class CapChange:
    """The cap has moved."""

    old: int
    new: int
    code: str  # for a metric: a key of supervisor.states.CAP_REASONS
    reason: str  # for a person


class Cap:
    """How many tasks may be in flight now: between 1 and the ceiling, where it starts."""

    def __init__(self, ceiling: int, cpu_high: float, memory_high: float) -> None:
        """Start at the ceiling.

        Args:
            ceiling: MAX_PROCESS_NUM; for a local node not more than the model server's slots.
            cpu_high: percent of CPU above which the CPU counts as full.
            memory_high: percent of memory above which memory counts as short.
        """
        self.ceiling = self.value = ceiling
        self.code = "start"
        self._brake, self._search = MemoryBrake(ceiling, memory_high), CapSearch(cpu_high)
        self._queue = QueueBrake()

    def observe(self, sample: Sample) -> CapChange | None:
        """Take in one sample; return the change if the cap moves."""
        move = self._brake.observe(sample, self.value)
        if self._brake.is_active:
            self._queue.reset()
        else:
            move = self._queue.observe(sample, self.value)
        if move is None and not self._brake.is_active and not self._queue.is_active:
            move = self._search.observe(sample, self.value, self._brake.highest(sample, self.value))
        if move is None or move.level == self.value:
            return None
        if move.level > self.value:
            self._brake.raised(sample.at)
        if self._brake.is_active or self._queue.is_active:
            self._search.reset()
        old, self.value, self.code = self.value, move.level, move.code
        return CapChange(old, self.value, self.code, move.reason)
