"""What more slots gain: tokens per second by level, measured, and the level to try or keep next. Pure.

A *level* is a number of requests in flight. Tokens per second over levels may be flat, rise, and fall again (a small
model on two cores: 45, 45, 65, 104, 61 at 1, 2, 4, 8, 16), so that only trying tells, and one flat step proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

SAME = 0.05  # rates that differ by less are the same: the noise of a window
NEAR = 0.12  # a level that gives less by no more than this may be climbed past: a bad window, a small dip
# Doublings that may be climbed without a gain. The first of the measured table is flat, so that one is too few.
FLAT_STEPS = 2
PAIN_FACTOR, PAIN_S = 3.0, 2.0  # a first token that takes three times as long, and longer than this, hurts

# A window is whole when its mean is known well enough, at the latest when it is long.
SHORTEST_S, LONGEST_S = 4.0, 15.0
FEWEST = 5
WELL_ENOUGH = 0.04  # standard error, as a share of the mean
SWINGS = 0.25  # a window whose halves are so far from their mean tells nothing: somebody else comes and goes

DEPARTED = 0.3  # a rate that is so far off, several times in a row, is another load or another machine
RISES, FALLS = 2, 4  # windows in a row: what was taken is given back soon, what is there is not given up soon
FOLLOWING = 0.3  # weight of a new rate that is not


@dataclass(frozen=True, slots=True)
class Reading:
    """What a level gives."""

    at: float  # monotonic, when measured
    rate: float  # tokens per second
    first_token_s: float | None  # how long a request waits for its first token; None: none came
    cpu_full: bool  # while it was measured


Table = Mapping[int, Reading]  # by level


@dataclass(slots=True)
class Window:
    """The samples taken at one level."""

    began: float | None = None
    rates: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def add(self, at: float, rate: float, first_token_s: float | None) -> None:
        """One more sample."""
        self.began = at if self.began is None else self.began
        self.rates.append(rate)
        if first_token_s is not None:
            self.waits.append(first_token_s)

    def whole(self, at: float, lag_s: float) -> bool:
        """Whether the mean can be relied on. With a lag, tokens come in lumps: a window takes one more of them."""
        if self.began is None or len(self.rates) < FEWEST or at - self.began < SHORTEST_S + lag_s:
            return False
        return at - self.began >= LONGEST_S + lag_s or self._error() <= WELL_ENOUGH * self._mean()

    def swings(self) -> bool:
        """Whether the rate was one at first and another later."""
        half = len(self.rates) // 2
        early, late = sum(self.rates[:half]), sum(self.rates[-half:])
        return abs(early - late) > SWINGS * (early + late)

    def reading(self, at: float, cpu_full: bool) -> Reading:
        """What was measured: the mean rate, the median wait."""
        waits = sorted(self.waits)
        return Reading(at, self._mean(), waits[len(waits) // 2] if waits else None, cpu_full)

    def _mean(self) -> float:
        return sum(self.rates) / len(self.rates)

    def _error(self) -> float:
        """The standard error of the mean."""
        mean, count = self._mean(), len(self.rates)
        return math.sqrt(sum((rate - mean) ** 2 for rate in self.rates) / (count - 1) / count)


def next_level(table: Table, ceiling: int) -> tuple[int, str]:
    """The level to go to.

    Args:
        table: what is known, of one level at least.
        ceiling: the highest level that may be tried.

    Returns:
        The level, with "climb" (try more), "between" (two levels give the same: try one between), "fewer" (try fewer),
        or "best" (nothing is left to try).
    """
    bottom, top = plateau(table, SAME)
    _, climbed = plateau(table, NEAR)
    above, between, below = min(2 * climbed, ceiling), math.isqrt(bottom * top), bottom // 2
    if climbed < above and climbed <= bottom << FLAT_STEPS and not any(climbed < level <= above for level in table):
        return above, "climb"
    if bottom < between and not any(bottom < level < top for level in table):
        return between, "between"
    if table[bottom].cpu_full and below and not any(below <= level < bottom for level in table):
        return below, "fewer"
    return best_level(table), "best"


def best_level(table: Table) -> int:
    """The known best: of the levels that give most the highest that fills no CPU and hurts nobody, else the lowest."""
    bottom, top = plateau(table, SAME)
    fine = [
        level
        for level, reading in table.items()
        if bottom < level <= top and not reading.cpu_full and not hurts(reading, table[bottom])
    ]
    return max(fine, default=bottom)


def plateau(table: Table, less: float) -> tuple[int, int]:
    """The lowest and the highest level that give as much as any, or less by no more than this share."""
    most = max(reading.rate for reading in table.values())
    equals = [level for level, reading in table.items() if reading.rate >= (1 - less) * most]
    return min(equals), max(equals)


def hurts(more: Reading, fewer: Reading) -> bool:
    """Whether first tokens take much longer with more in flight."""
    if more.first_token_s is None or fewer.first_token_s is None:
        return False
    return more.first_token_s > max(PAIN_S, PAIN_FACTOR * fewer.first_token_s)


def scaled(table: Table, factor: float) -> dict[int, Reading]:
    """The same shape at another height: what one level lost or gained, the others did too."""
    return {level: replace(reading, rate=reading.rate * factor) for level, reading in table.items()}


@dataclass(slots=True)
class Usual:
    """The rate at the level that is kept, and whether it departs from that for good."""

    rate: float
    _run: int = 0  # windows in a row that were far off: positive above, negative below

    def departs(self, rate: float) -> int:
        """1 (up) or -1 (down) when the last windows, this one included, were far off on the same side; else 0."""
        if rate > self.rate * (1 + DEPARTED):
            self._run = max(self._run, 0) + 1
        elif rate < self.rate * (1 - DEPARTED):
            self._run = min(self._run, 0) - 1
        else:
            self._run = 0
            self.rate += FOLLOWING * (rate - self.rate)
        if -FALLS < self._run < RISES:
            return 0
        side, self.rate, self._run = (1 if self._run > 0 else -1), rate, 0
        return side
