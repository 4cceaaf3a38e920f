"""Lowers the cap while memory is short, and gives back what it took. Pure."""

from __future__ import annotations

from supervisor.concurrency.sample import Move, Sample

SHARE = 0.7  # of the tasks in flight that remain when memory is short
LOWER_PAUSE_S = 5.0  # before the cap is lowered again; besides, the tasks above the lowered cap must have ended
LOW = 0.95  # of MEMORY_HIGH: memory must be below this before the cap is raised, or the cap would swing
CALM_S = 4.0  # for so long; twice as long after each raise that made memory short again
LONGEST_CALM_S = 600.0
RAISE_PAUSE_S = 3.0  # between two doublings on the way back: from 1 to 128 in 25 s
RELAPSE_S = 30.0  # memory that is short again so soon after a raise: the raise may be the cause


class MemoryBrake:
    """Decides about the cap from the moment memory is short until the cap is where it was before."""

    def __init__(self, ceiling: int, memory_high: float) -> None:
        self._ceiling, self._high = ceiling, memory_high
        self._goal: int | None = None  # how far the cap is raised again; None: memory is not short
        self._lowered_at = self._raised_at = float("-inf")
        self._calm_since: float | None = None
        self._calm_s = CALM_S

    @property
    def is_active(self) -> bool:
        """True while memory decides about the cap."""
        return self._goal is not None

    def highest(self, sample: Sample, level: int) -> int:
        """How far the cap, now at `level`, may be raised: not at all while memory is nearly short."""
        return level if sample.memory_percent > LOW * self._high else self._ceiling

    def raised(self, at: float) -> None:
        """The cap was raised: if memory is short soon, that may be the cause."""
        self._raised_at = at

    def observe(self, sample: Sample, level: int) -> Move | None:
        """Take in one sample; return where the cap, now at `level`, should be; None: where it is."""
        if sample.memory_percent > self._high:
            self._goal = self._goal or level
            self._calm_since = None
            return self._lower(sample, level)
        if self._goal is None:
            return None
        if sample.memory_percent > LOW * self._high:
            self._calm_since = None
            return None
        self._calm_since = sample.at if self._calm_since is None else self._calm_since
        if sample.at - self._calm_since < self._calm_s or sample.at - self._raised_at < RAISE_PAUSE_S:
            return None
        return self._raise(sample, level, self._goal)

    def _lower(self, sample: Sample, level: int) -> Move | None:
        if sample.at - self._lowered_at < LOWER_PAUSE_S or sample.in_flight > level or level == 1:
            return None
        lower = max(1, int(SHARE * (sample.in_flight or level)))
        if sample.at - self._raised_at < RELAPSE_S:
            self._calm_s = min(2 * self._calm_s, LONGEST_CALM_S)
            self._goal = (lower + level) // 2
        elif sample.at - self._lowered_at > LONGEST_CALM_S:
            self._calm_s = CALM_S
        self._lowered_at = sample.at
        reason = f"memory{sample.memory_of} {sample.memory_percent:.0f} % is above MEMORY_HIGH {self._high:g} %"
        return Move(lower, "memory", reason)

    def _raise(self, sample: Sample, level: int, goal: int) -> Move | None:
        if level >= goal:
            self._goal = None
            return None
        reason = f"memory {sample.memory_percent:.0f} % leaves room again"
        return Move(min(2 * level, goal), "memory_free", reason)
