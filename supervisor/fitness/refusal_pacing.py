"""The rate learnt from refusals alone, where no header names a limit. Pure.

Between two refusals the budget was used up twice, so that what was accepted between them is exactly what upstream
refills for this node. Every `now` is monotonic seconds and never goes back.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

# A cold start asks this many calls a second, and RAMP_GAIN more for each call that was not refused: 128 calls in 1.1 s.
# A refusal (known within 10 ms or so) finds few calls behind it: after 60 calls two nodes ask 190 a second together.
RAMP_START = 50.0
RAMP_GAIN = 1.5
# After so many calls without a refusal nothing is paced.
RAMP_CALLS = 1000
# After the first refusal the rate starts from FIRST_RATE times the square root of the calls that were asked, and
# doubles in DOUBLING until the second refusal gives the measure. A slower start lets the budget run full, and what
# comes to a full budget is lost; a faster one is refused more often. By simulation, for budgets of 10 to 60 at once.
FIRST_RATE = 0.6  # calls a second
DOUBLING = 1.0  # seconds
FIT_STEPS = 20  # of the bisection that finds the refill
# After a measure the rate starts just below it and creeps: little at first, so that refusals are rare (one in 200 calls
# or so), and more the longer none comes, so that a raised limit is found.
BELOW = 0.93
CREEP = 600.0  # seconds in which the rate would double if it went on as it starts
LEAP = 60.0  # seconds after which the rate grows faster and faster
# A measure takes so long if it can, since a short one is noise; one over a shorter time or fewer calls than the least
# is none, and the rate is cut by a share.
LONG_MEASURE = 5.0  # seconds
SHORTEST_MEASURE = 2.0  # seconds
FEWEST_MEASURED = 3
UNMEASURED_CUT = 0.7
# If the creeping rate was really used, and the refusal came LONG_MEASURE or more after the last one, the rate was only
# slightly too high: it is cut to this share at most. The measure is less certain where the budget is so small that it
# was full in between.
SMALLEST_CUT = 0.95
SLACK = 1.15  # the pauses after refusals are in what was used
MOST_MOMENTS = 4096  # calls remembered: more than are asked between two refusals that teach anything
MOMENTS = 16  # remembered; they come seconds apart
SLOWEST = 0.05  # calls a second: slower than this and no news would come
# slow_down: OpenAI asks for a steady rate for 15 minutes, and of big users then to grow no faster than 50 % in 15 more.
RAMP_CUT = 0.8
RAMP_STEADY = 900.0  # seconds
RAMP_LEAST = 1.0  # calls a second: what is slower is no ramp


class Phase(Enum):
    """How the rate goes on."""

    RAMP = "ramp"  # no refusal yet: faster with every call, soon as fast as anybody likes
    DOUBLE = "double"  # one refusal: what the budget is, is known only after the next
    CREEP = "creep"  # measured
    STEADY = "steady"  # upstream refused because it grew too fast


class LearnedRate:
    """The rate learnt from refusals alone."""

    def __init__(self) -> None:
        self._calls = 0  # asked since the start; the second try of one that was refused is no new call
        self._lately, self._lately_at = 0.0, 0.0  # calls of about the last minute
        self._first_at: float | None = None
        # Moments at which the budget was used up, each with the calls that had been accepted until then.
        self._empty: deque[tuple[float, int]] = deque(maxlen=MOMENTS)
        self._moments: deque[float] = deque(maxlen=MOST_MOMENTS)  # when calls were asked that were not refused
        # Calls that were accepted before the first refusal, and the seconds that they took.
        self._before_first_refusal = (0, 0.0)
        self._before = 0.0  # calls a second when the newest of them came
        self._phase = Phase.RAMP
        self._base, self._since = 0.0, 0.0  # calls a second at that moment

    @property
    def has_met_limit(self) -> bool:
        """Whether a refusal taught a rate."""
        return self._phase is not Phase.RAMP

    def sent(self, now: float) -> None:
        """A call is asked."""
        self._calls += 1
        self._moments.append(now)
        self._first_at = now if self._first_at is None else self._first_at
        self._lately = self._lately * math.exp((self._lately_at - now) / 60) + 1
        self._lately_at = now

    def rate(self, now: float) -> float:
        """Return calls a second."""
        time = max(0.0, now - self._since)
        if self._phase is Phase.RAMP:
            return math.inf if self._calls >= RAMP_CALLS else RAMP_START + RAMP_GAIN * self._calls
        if self._phase is Phase.DOUBLE:
            return self._base * 2 ** min(time / DOUBLING, 60)
        if self._phase is Phase.STEADY:
            time = max(0.0, time - RAMP_STEADY)
        return self._base * (BELOW + time / CREEP + (time / LEAP) ** 3)

    def refused(self, now: float, first: bool) -> None:
        """A call was refused.

        Args:
            first: whether it is the first of its episode; the others had been on their way.
        """
        if self._moments:
            self._moments.pop()  # it will be asked again
        if first or not self._empty:
            self._before = self.rate(now)
            self._empty.append((now, self._calls - 1))
        else:
            at, accepted = self._empty[-1]
            self._empty[-1] = (at, accepted - 1)
        self._since = now
        measured = self._measured()
        if self._phase is Phase.RAMP or len(self._empty) == 1:
            self._phase, self._base = Phase.DOUBLE, max(FIRST_RATE * math.sqrt(self._lately), SLOWEST)
            self._before_first_refusal = (self._empty[0][1], now - (now if self._first_at is None else self._first_at))
        elif measured is not None:
            steady = self._phase is not Phase.DOUBLE and self._empty[-1][0] - self._empty[-2][0] >= LONG_MEASURE
            least = min(self._before, SLACK * self._used(now)) * SMALLEST_CUT if steady else SLOWEST
            self._phase, self._base = Phase.CREEP, max(measured, least)
        elif self._phase is Phase.DOUBLE:  # it starts anew, and lower
            self._base = max(self._base * UNMEASURED_CUT, SLOWEST)
        else:
            self._phase, self._base = Phase.CREEP, max(self._before * UNMEASURED_CUT, SLOWEST)

    def resume(self, moment: float) -> None:
        """Let the rate grow from that moment on: the hold is over, and those that were refused have asked again."""
        self._since = moment
        self._moments.append(moment)  # the refused call is asked about then

    def slow_down(self, now: float) -> None:
        """Upstream refused because the rate grew too fast: cut it, and keep it as long as upstream asks."""
        lately = 2 * self._lately / 60
        self._base = max(min(self.rate(now), lately) * RAMP_CUT, RAMP_LEAST)
        self._phase, self._since = Phase.STEADY, now

    def _used(self, now: float) -> float:
        """The calls a second that were asked lately; for a node younger than a minute, since its first."""
        age = now - (now if self._first_at is None else self._first_at)
        return self._lately * math.exp((self._lately_at - now) / 60) / (60 * (1 - math.exp(-max(age, 1.0) / 60)))

    def _measured(self) -> float | None:
        """What was accepted between the newest moment and one a measure's length before it, a second."""
        end, accepted = self._empty[-1]
        began, then = next(
            (moment for moment in reversed(self._empty) if end - moment[0] >= LONG_MEASURE), self._empty[0]
        )
        if end - began >= SHORTEST_MEASURE and accepted - then >= FEWEST_MEASURED:
            least = (accepted - then) / (end - began)
            return self._refill(began, end, least) if len(self._empty) == 2 else least
        return None

    def _refill(self, began: float, end: float, least: float) -> float:
        """The refill of a token bucket that was empty at `began`, and is empty again at `end` after the calls between.

        It is more than what was accepted, if the bucket was full for a while. Its size is what was accepted before the
        first refusal, less what came back meanwhile.
        """
        calls = sorted(moment for moment in self._moments if began < moment <= end)
        count, seconds = self._before_first_refusal

        def left(refill: float) -> float:
            size = max(count - refill * seconds, 1.0)
            level, then = 0.0, began
            for moment in calls:
                level = min(size, level + refill * (moment - then)) - 1
                then = moment
            return min(size, level + refill * (end - then))

        low, high = least, max(self._before, least)
        for _ in range(FIT_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if left(middle) < 1 else (low, middle)
        return low
