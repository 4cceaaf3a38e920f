"""The dynamic cap (spec 5): samples in, a number and its reason out. Pure; the clock is in the samples.

Memory comes first: above MEMORY_HIGH the cap falls at once and by a share, and climbs back when memory is free again.
Otherwise it goes where most tokens per second are (search.py): up while that gains, down only when the CPU is full and
fewer give as much. CPU alone never lowers it, since a model on the CPU uses all of it at any load.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from supervisor.concurrency.search import Sample, Search, Wanted

SHARE = 0.7  # what is left of the cap when memory is short
LOWER_PAUSE_S = 5.0  # before it is lowered again; besides, what is above the lowered cap must have ended
ROOM = 0.95  # of MEMORY_HIGH: memory must have come down so far before the cap climbs, else it would swing
CALM_S = 4.0  # and for so long
CLIMB_PAUSE_S = 3.0  # between two doublings on the way back: from 1 to 128 in 25 s
# Short again so soon after a climb: the climb may have been the cause, and the next one waits twice as long. The second
# time it is certain, and the next one goes half as far.
RELAPSE_S = 30.0
LONGEST_CALM_S = 600.0
REMEMBERED_S = 900.0  # how long no more are tried than what fitted into memory


@dataclass(frozen=True, slots=True)
class Change:
    """The cap has moved."""

    old: int
    new: int
    code: str  # for a metric: a key of supervisor.states.CAP_REASONS
    reason: str  # in words


class Cap:
    """How many tasks may be in flight now: between 1 and the ceiling.

    Args:
        ceiling: MAX_PROCESS_NUM; for a local node not more than the model server's slots.
        start: where it begins.
        cpu_high: percent above which the CPU is full.
        memory_high: percent above which memory is short.
    """

    def __init__(self, ceiling: int, start: int, cpu_high: float, memory_high: float) -> None:
        self.ceiling = ceiling
        self.value = min(max(1, start), ceiling)
        self.code = "start"
        self._brake, self._search = MemoryBrake(memory_high), Search(cpu_high)

    def observe(self, sample: Sample) -> Change | None:
        """Take one sample in. Returns the change if the cap moves."""
        if self._brake.holds(sample):
            wanted = self._brake.wanted(sample, self.value)
        else:
            highest = int(min(self.ceiling, self._brake.highest(sample, self.value)))
            wanted = self._search.observe(sample, self.value, highest)
        if wanted is None or wanted.level == self.value:
            return None
        old, self.value, self.code = self.value, wanted.level, wanted.code
        self._search.moved(sample.at)
        if self.value > old:
            self._brake.climbed(sample.at)
        return Change(old, self.value, self.code, wanted.reason)


class MemoryBrake:
    """Lowers the cap while memory is short, and gives back what it took. It knows where the cap was when that began."""

    def __init__(self, memory_high: float) -> None:
        self._high = memory_high
        self._home: int | None = None  # the cap before memory became short; None: it is not
        self._lowered_at = self._raised_at = float("-inf")
        self._calm_since: float | None = None
        self._calm_s = CALM_S
        self._relapsed = False
        self._fits: int | None = None  # as far as it may climb, after it was too much twice

    def highest(self, sample: Sample, level: int) -> int | float:
        """How far the cap, now at `level`, may climb."""
        if sample.memory_percent > ROOM * self._high:
            return level
        if self._fits is not None and sample.at - self._lowered_at < REMEMBERED_S:
            return max(self._fits, level)
        return inf

    def climbed(self, at: float) -> None:
        """The cap went up: what happens to memory next is its doing."""
        self._raised_at = at

    def holds(self, sample: Sample) -> bool:
        """Whether memory decides about the cap now."""
        return self._home is not None or sample.memory_percent > self._high

    def wanted(self, sample: Sample, level: int) -> Wanted | None:
        """Where the cap, now at `level`, should be; None: stay."""
        self._home = self._home or level
        if sample.memory_percent > self._high:
            self._calm_since = None
            return self._lower(sample, level)
        if sample.memory_percent > ROOM * self._high:
            self._calm_since = None
            return None
        self._calm_since = sample.at if self._calm_since is None else self._calm_since
        if sample.at - self._calm_since < self._calm_s:
            return None
        return self._climb(sample, level)

    def _lower(self, sample: Sample, level: int) -> Wanted | None:
        draining = sample.in_flight > level
        if sample.at - self._lowered_at < LOWER_PAUSE_S or draining or level == 1:
            return None
        lower = max(1, int(SHARE * (sample.in_flight or level)))
        if sample.at - self._raised_at < RELAPSE_S:
            self._calm_s = min(2 * self._calm_s, LONGEST_CALM_S)
            if self._relapsed:
                self._home = self._fits = (lower + level) // 2
            self._relapsed = True
        elif sample.at - self._lowered_at > LONGEST_CALM_S:
            self._calm_s, self._relapsed = CALM_S, False
        self._lowered_at, self._raised_at = sample.at, float("-inf")
        reason = f"memory {sample.memory_percent:.0f} % is above MEMORY_HIGH {self._high:g} %"
        return Wanted(lower, "memory", reason)

    def _climb(self, sample: Sample, level: int) -> Wanted | None:
        home = self._home or level
        if level >= home:
            self._home = None
            return None
        if sample.at - self._raised_at < CLIMB_PAUSE_S:
            return None
        reason = f"memory {sample.memory_percent:.0f} % leaves room again"
        return Wanted(min(2 * level, home), "memory_free", reason)
