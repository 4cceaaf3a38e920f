"""Where most tokens per second are: measures a level, goes to the next, rests at the best. Pure; clocks are arguments.

It measures only while tasks wait because of the cap: with fewer tasks their number decides, not the cap. Once it rests
it looks again when the rate departs for good (another load, another user of the machine) and when readings are old.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.concurrency.gain import DEPARTED, Reading, Usual, Window, best_level, hurts, next_level, scaled

CPU_SMOOTHING = 0.3  # weight of the newest sample
CPU_MARGIN = 10.0  # points below CPU_HIGH at which it counts as free again
SETTLE_S = 2.0  # after a change: new prompts are worked on first and hold tokens up
NOBODY_WAITS_S = 10.0  # so long too few tasks to measure with: a level that was being tried is left for the best known
REST_S = 60.0  # between two changes once the best was found: fewer than two a minute
FRESH_S = 900.0  # a reading counts so long; then its level is tried again: twenty seconds in fifteen minutes
SEARCH_PAUSE_S = 120.0  # between two searches that a departed rate starts
# The first search has the machine as it starts; a lower level that it found is checked against the start later, as a
# check costs as much as the search. Later searches began because something changed, and are checked at once.
FIRST_CHECK_S = 300.0
HOPELESS = 0.5  # a level that gave less of the best rate than this is too dear to check: the next above the best is
UNSTEADY_S = 300.0  # before the next search, when this one came to nothing because the rate would not keep still
HURTS_AFTER = 3  # samples after which a level that hurts and gains nothing is left


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the node."""

    at: float  # monotonic, seconds
    cpu_percent: float
    memory_percent: float
    in_flight: int
    full_house: bool  # since the last sample tasks waited because of the cap
    tokens_per_s: float | None  # over the time since the last sample; None: nobody counts
    first_token_s: float | None = None  # the typical wait of the first tokens that came since; None: none came
    # Tokens are counted so long after they were made: a request's duration where only whole answers are counted.
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where the cap should be."""

    level: int
    code: str  # for a metric
    reason: str  # in words


class Search:
    """The search for the best level. The owner goes where it is told, and calls `moved` whenever the cap has moved."""

    def __init__(self, cpu_high: float) -> None:
        self._cpu_high, self._cpu, self._cpu_full = cpu_high, 0.0, False
        self._table: dict[int, Reading] = {}
        self._window = Window()
        self._settled_since: float | None = None
        self._missed_since: float | None = None
        self._moved_at = self._searched_at = self._search_after = float("-inf")
        self._usual: Usual | None = None  # while it rests
        self._origin: int | None = None  # where the search began, as long as the best is below it
        self._check_at = float("-inf")  # when the origin is to be measured again
        self._checking = False  # it is being measured again

    def moved(self, at: float) -> None:
        """The cap is elsewhere now."""
        self._moved_at = at
        self._settled_since = self._missed_since = None
        self._window = Window()

    def observe(self, sample: Sample, level: int, highest: int) -> Wanted | None:
        """Take a sample in.

        Args:
            level: where the cap is.
            highest: how far it may climb now.

        Returns:
            Where it should go; None: stay.
        """
        self._note_cpu(sample.cpu_percent)
        if sample.tokens_per_s is None or sample.in_flight > level:  # more in flight: those of a higher level still end
            self._settled_since = self._missed_since = None
            return None
        if not sample.full_house:
            return self._nobody_waits(sample.at, level)
        self._missed_since = None
        self._settled_since = sample.at if self._settled_since is None else self._settled_since
        if sample.at - self._settled_since < max(SETTLE_S, sample.lag_s):
            return None
        self._window.add(sample.at, sample.tokens_per_s, sample.first_token_s)
        reading = self._window.reading(sample.at, self._cpu_full)
        if not self._window.whole(sample.at, sample.lag_s) and not self._in_vain(reading):
            return None
        window, self._window = self._window, Window()
        if reading.rate <= 0 or (not sample.lag_s and window.swings()):  # tokens that are counted late come in lumps
            return self._cannot_tell(sample.at, level)
        return self._measured(reading, level, highest)

    def _measured(self, reading: Reading, level: int, highest: int) -> Wanted | None:
        if not self._table:  # the first search: nothing is known yet to check it against
            self._origin, self._check_at = level, reading.at + FIRST_CHECK_S
        departed = self._watch(reading, level)
        if self._belied(reading, level):
            return self._back_to_origin(reading, level, highest)
        self._table[level] = reading
        self._table = {each: known for each, known in self._table.items() if reading.at - known.at < FRESH_S}
        target, code = self._target(reading.at, level, highest, departed)
        unsteady = reading.at < self._search_after and code != "check"
        soon = self._usual is not None and reading.at - self._moved_at < REST_S
        if target == level or ((unsteady or soon) and not departed):
            self._rest(level)
            return None
        if code == "check":
            self._check_at, self._checking = float("inf"), True
        elif self._usual and code != "best":  # another search begins
            self._origin, self._check_at = max(level, self._origin or 0), reading.at
        self._usual = None
        if code == "best":
            self._rest(target)
        return Wanted(target, code, self._words(target, code, level))

    def _target(self, at: float, level: int, highest: int, departed: int) -> tuple[int, str]:
        """The level to go to, and the code."""
        origin = min(self._origin or level, highest)
        if departed > 0 and origin > level:  # what it gave way to is gone
            return origin, "climb"
        target, code = next_level(self._table, highest)
        if code == "best" and target < origin and at >= self._check_at:
            # Load and machine may have changed while it searched.
            check = self._to_check(target, origin)
            if check not in (target, level):
                return check, "check"
        return target, code

    def _to_check(self, best: int, origin: int) -> int:
        """The level that is measured again before fewer are kept: where the search began, if that can be borne."""
        known = self._table.get(origin)
        if known is None or known.rate > HOPELESS * self._table[best].rate:
            return origin
        return min(level for level in self._table if level > best)

    def _belied(self, reading: Reading, level: int) -> bool:
        """Whether this was a check, and the level gives something else than it did."""
        known, checking, self._checking = self._table.get(level), self._checking, False
        return checking and known is not None and abs(reading.rate - known.rate) > DEPARTED * known.rate

    def _back_to_origin(self, reading: Reading, level: int, highest: int) -> Wanted | None:
        """The search came to nothing: what was compared was not the same machine or load."""
        origin = min(self._origin or level, highest)
        self._table = {level: reading}
        self._search_after = reading.at + UNSTEADY_S
        self._usual = self._origin = None
        if origin == level:
            self._rest(level)
            return None
        return Wanted(origin, "best", f"{level} in flight give another rate than before: nothing can be told")

    def _rest(self, level: int) -> None:
        """Nothing is left to try."""
        self._usual = self._usual or Usual(self._table[level].rate)
        if self._origin is not None and level >= self._origin:
            self._origin = None

    def _watch(self, reading: Reading, level: int) -> int:
        """At rest: keep the table's shape, and forget what a departed rate may have changed. Returns the departure."""
        known = self._table.get(level)
        if self._usual is None or known is None:
            return 0
        self._table = scaled(self._table, reading.rate / known.rate)
        departed = self._usual.departs(reading.rate)
        giving_back = departed > 0 and self._origin is not None
        if not departed or (reading.at - self._searched_at < SEARCH_PAUSE_S and not giving_back):
            return 0
        self._searched_at = reading.at
        self._table = {each: old for each, old in self._table.items() if (level - each) * departed > 0}
        return departed

    def _cannot_tell(self, at: float, level: int) -> Wanted | None:
        """The rate swings: what was being tried cannot be compared, and is tried again later."""
        if self._usual or not self._table:
            return None
        best = best_level(self._table)
        self._search_after = at + UNSTEADY_S
        self._check_at = min(self._check_at, at + REST_S)
        self._rest(best)
        return Wanted(best, "best", f"the rate swings too much to tell what {level} give") if best != level else None

    def _nobody_waits(self, at: float, level: int) -> Wanted | None:
        self._settled_since = None
        self._missed_since = at if self._missed_since is None else self._missed_since
        if at - self._missed_since < NOBODY_WAITS_S:
            return None
        self._window = Window()
        if self._usual or not self._table:
            return None
        best = best_level(self._table)
        self._rest(best)
        return Wanted(best, "best", f"too few tasks to try {level}") if best != level else None

    def _note_cpu(self, percent: float) -> None:
        self._cpu = percent if not self._cpu else self._cpu + CPU_SMOOTHING * (percent - self._cpu)
        self._cpu_full = self._cpu > self._cpu_high - (CPU_MARGIN if self._cpu_full else 0.0)

    def _in_vain(self, now: Reading) -> bool:
        """Whether the level that is being tried makes clients wait and gains nothing."""
        if self._usual or not self._table or len(self._window.rates) < HURTS_AFTER:
            return False
        best = self._table[best_level(self._table)]
        return now.rate <= best.rate and hurts(now, best)

    def _words(self, target: int, code: str, level: int) -> str:
        gives = f"{level} in flight give {self._table[level].rate:.0f} tokens a second"
        if code == "climb":
            return f"{gives}: trying whether {target} give more"
        if code == "between":
            return f"{gives}, and others as much: trying {target}, between them"
        if code == "fewer":
            return f"the CPU is full and {gives}: trying whether {target} give as much"
        if code == "check":
            return f"{gives}: measuring {target} again, where the search began"
        return f"{gives}, {target} gave {self._table[target].rate:.0f}"
