"""Tries now and then whether another number of tasks in flight gives more tokens per second. Pure.

The cap starts at the ceiling (the local model's slots, or MAX_PROCESS_NUM). Fewer tasks are tried only where the CPU is
full: the search halves the cap while fewer give as much. Later it tries more again: load or machine may have changed.
Tokens per second over tasks in flight may be flat, rise and fall again (a small model on two cores: 45, 45, 65, 104, 61
at 1, 2, 4, 8, 16). So upward it tries twice as many and the ceiling by turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from supervisor.concurrency.sample import Move, Sample

SETTLE_S = 2.0  # after a move: new prompts are worked on first and hold tokens up
WINDOW_S = 8.0  # a rate is the mean over so long
FEWEST = 5  # samples in a window
NOISE = 0.05  # rates that differ by a smaller share are the same
SWING = 0.25  # a window whose halves differ by more from its mean proves nothing: somebody else comes and goes
DEPARTED = 0.3  # a rate that is so far off the last one, in two windows: another load or another machine
IDLE_S = 10.0  # so long too few tasks to measure with: the search is given up
PAUSE_S, LONGEST_PAUSE_S = 300.0, 1200.0  # between two searches; twice as long after each that found nothing better
CPU_SMOOTHING = 0.3  # weight of the newest reading


@dataclass(frozen=True, slots=True)
class Kept:
    """The level to go back to if the one that is tried is not better."""

    level: int
    rate: float  # tokens per second


class CapSearch:
    """Where the cap should be while memory is free."""

    def __init__(self, cpu_high: float) -> None:
        self._cpu_high = cpu_high
        self._cpu = 0.0
        self._kept: Kept | None = None  # while another level is tried
        self._most = 0.0  # tokens per second: the most that any level of this search gave
        self._rate: float | None = None  # of the level that is kept, when it was measured last
        self._departures = 0  # windows in a row
        self._is_up_next = False
        self._is_ceiling_next = False
        self._pause_s = PAUSE_S
        self._next_at = float("-inf")
        self._rates: list[float] = []  # of the window
        self._since: float | None = None  # when the window began
        self._idle_since: float | None = None

    def reset(self) -> None:
        """The cap was moved by somebody else: forget what was being measured."""
        self._kept = None
        self._restart_window()

    def observe(self, sample: Sample, level: int, highest: int) -> Move | None:
        """Take in one sample; return where the cap, now at `level`, should be; None: where it is.

        Args:
            sample: the reading.
            level: where the cap is.
            highest: how far it may be raised now.
        """
        self._cpu += CPU_SMOOTHING * (sample.cpu_percent - self._cpu) if self._cpu else sample.cpu_percent
        if not sample.is_full or sample.in_flight > level:  # tasks of a higher level still end
            return self._not_full(sample, level)
        self._idle_since = None
        if self._since is None:
            # A slow machine may read the first prompts for longer than it takes to settle.
            if self._kept is None and sample.tokens_per_s <= 0 and not sample.lag_s:
                return None
            self._since = sample.at
        measured_s = sample.at - self._since - max(SETTLE_S, sample.lag_s)
        if measured_s < 0:
            return None
        self._rates.append(sample.tokens_per_s)
        if measured_s < WINDOW_S + sample.lag_s or len(self._rates) < FEWEST:
            return None
        rates = self._rates
        self._restart_window()
        # Tokens that are counted late come in lumps: such a rate always swings.
        if fmean(rates) <= 0 or (swings(rates) and not sample.lag_s):
            return self._give_up(sample.at, level, f"the rate swings too much to measure what {level} give")
        return self._measured(sample.at, level, highest, fmean(rates))

    def _measured(self, at: float, level: int, highest: int, rate: float) -> Move | None:
        gives = f"{level} in flight give {rate:.0f} tokens a second"
        if self._kept is None:
            self._note_departure(at, rate, can_go_up=level < highest)
            self._most = rate
        elif self._is_better(level, rate, self._kept):
            self._kept = None
            self._most = max(self._most, rate)
            self._rate, self._pause_s, self._next_at = rate, PAUSE_S, at
        else:
            return self._give_up(at, level, f"{gives}, {self._kept.level} gave {self._kept.rate:.0f}")
        if at < self._next_at:
            return None
        target = self._target(level, highest)
        if target == level:
            return None
        self._kept = Kept(level, rate)
        if target > level:
            return Move(target, "climb", f"{gives}: trying whether {target} give more")
        return Move(target, "fewer", f"the CPU is full and {gives}: trying whether {target} give as much")

    def _is_better(self, level: int, rate: float, kept: Kept) -> bool:
        """More tasks must gain; fewer need only give as much as any level of this search."""
        return rate > (1 + NOISE) * kept.rate if level > kept.level else rate >= (1 - NOISE) * self._most

    def _target(self, level: int, highest: int) -> int:
        """The level to try: up and down by turns where both are possible."""
        can_go_up, can_go_down = level < highest, level > 1 and self._cpu > self._cpu_high
        if can_go_down and not (can_go_up and self._is_up_next):
            return level // 2
        if not can_go_up:
            return level
        return highest if self._is_ceiling_next else min(2 * level, highest)

    def _give_up(self, at: float, level: int, reason: str) -> Move | None:
        """Go back to the level that is kept."""
        kept, self._kept = self._kept, None
        self._restart_window()
        if kept is None:
            return None
        if level > kept.level:
            self._is_ceiling_next = not self._is_ceiling_next
        self._is_up_next = not self._is_up_next
        self._next_at = at + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return Move(kept.level, "best", reason)

    def _note_departure(self, at: float, rate: float, can_go_up: bool) -> None:
        """Below the ceiling, try more soon when the rate is another one for good."""
        if self._rate is not None and abs(rate - self._rate) > DEPARTED * self._rate:
            self._departures += 1
            if self._departures < 2:
                return
            if can_go_up:
                self._next_at, self._pause_s, self._is_up_next, self._is_ceiling_next = at, PAUSE_S, True, True
        self._departures, self._rate = 0, rate

    def _not_full(self, sample: Sample, level: int) -> Move | None:
        self._since = None
        self._idle_since = sample.at if self._idle_since is None or sample.is_full else self._idle_since
        if sample.at - self._idle_since < IDLE_S:
            return None
        return self._give_up(sample.at, level, f"too few tasks to try {level}")

    def _restart_window(self) -> None:
        self._rates = []
        self._since = self._idle_since = None


def swings(rates: Sequence[float]) -> bool:
    """True if the rate was one in the first half and another in the second."""
    half, mean = len(rates) // 2, fmean(rates)
    return abs(fmean(rates[:half]) - fmean(rates[-half:])) > 2 * SWING * mean
