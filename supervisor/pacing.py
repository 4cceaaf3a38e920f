"""How fast upstream may be asked, so that its limits are seldom hit: figures and refusals in, calls a second out. Pure.

Two laws, and the slower one counts:

- `Level` follows a budget that upstream's headers tell of. While much of it is left nothing is paced; below that the
  rate is what upstream refills, times (share left / HALF) squared. All nodes that share a key see the same share and so
  come to the same rate, without knowing of each other; the budget settles near its half, far from empty.
- `Learned` knows only that a call was refused. Between two refusals the budget was used up twice, so that what was
  accepted between them is exactly what upstream refills for this node.

`Pacer` puts them together and counts what may be asked now. `Ceiling` is the cap on calls at once after refusals.
Every `now` is monotonic seconds and never goes back.
"""

from __future__ import annotations

import math
from collections import deque

from workernode.protocol import Kind, LimitSeen

# Above this share of a budget nothing is paced: a person who asks now and then should never feel the pacing.
FREE_ABOVE = 0.75
# The share at which one node alone asks as fast as upstream refills. Far from empty, because figures come late (with
# the answer) and other nodes' calls are seen later still.
HALF = 0.5
# Whatever the refill is, what is left may be used up within this time: a limit a day is there to be used, and nobody
# waits for its refill.
SPEND_OVER = 60.0  # seconds
# Seconds over which other users' calls are averaged from what is missing in the figures. Shorter follows noise.
OTHERS_OVER = 3.0
# Others are taken to go on as they did for so much longer than figures are late; after that no news is good news, or a
# node that others once kept from asking would never ask again.
OTHERS_AHEAD = 0.5  # seconds
LATE_WEIGHT = 0.1  # of the newest answer in how late figures are
# Figures older than this say nothing any more.
STALE_AFTER = 60.0  # seconds
MOST_REMEMBERED = 2048  # calls on their way: more than any node has
# Weight of what was known against the newest answer, when the refill is measured: about the last ten answers count.
MEMORY = 0.9

# Two resets in whole seconds that are nearer to each other say nearly nothing.
SURE_RESET = 2.0  # seconds
BALANCE_OVER = 2.0  # seconds
TOP_FOR = 600.0  # seconds that a figure stands for the most there can be: a limit may have been lowered

# A cold start asks this many calls a second, and RAMP_GAIN more for each call that was not refused: 128 calls in 0.4 s,
# and a refusal (known within milliseconds) finds few calls behind it.
RAMP_START = 120.0
RAMP_GAIN = 4.0
# After so many calls without a refusal nothing is paced.
RAMP_CALLS = 1000
# After the first refusal, calls a second start from what a minute's budget spent so far would give, and double in this
# time until the second refusal gives the measure.
DOUBLING = 1.0  # seconds
# After a measure the rate starts just below it and creeps: little at first, so that refusals are rare (one in 200 calls
# or so), and more the longer none comes, so that a raised limit is found.
BELOW = 0.95
CREEP = 400.0  # seconds in which the rate would double if it went on as it starts
LEAP = 60.0  # seconds after which the rate grows faster and faster
# A measure takes so long if it can, since a short one is noise; one over a shorter time or fewer calls than the least
# is none, and the rate is cut by a share.
LONG_MEASURE = 5.0  # seconds
SHORTEST_MEASURE = 2.0  # seconds
FEWEST_MEASURED = 3
UNMEASURED_CUT = 0.7
# A creeping rate that meets the limit after a measure's length was just above it. The measure says less where the
# budget is so small that it was full in between.
SMALLEST_CUT = 0.95
MOMENTS = 16  # remembered; they come seconds apart
SLOWEST = 0.05  # calls a second: slower than this and no news would come
# slow_down: OpenAI asks for a steady rate for 15 minutes, and of big users then to grow no faster than 50 % in 15 more.
RAMP_CUT = 0.8
RAMP_STEADY = 900.0  # seconds
RAMP_LEAST = 1.0  # calls a second: what is slower is no ramp

# Calls that may be asked at once after a pause of the loop: this long of the rate.
BURST = 0.02  # seconds
# What a time-out of the loop may be at most while pacing: the rate changes as figures age.
LOOK_AGAIN = 0.25  # seconds
UNPACED = 1 << 30  # room without end
# Those that were refused ask again over a time in which upstream gives back so many times what they need (other nodes'
# calls were refused as well), but not over a longer one.
SPREAD = 2.0
SLOWEST_SPREAD = 1.0  # calls a second, where less is known
LONGEST_SPREAD = 10.0  # seconds
TOKENS_WEIGHT = 0.05  # of the newest call in what a call is taken to cost: about the last twenty count

# A refusal is explained by a budget of which less is left. Else there is a limit of which the headers do not tell.
LOW = 0.1  # of the whole

CUT = 0.8  # of the cap, once an episode
FAST_UNTIL = 0.9  # of the cap at which the limit was met: up to there one step a success, then one step a round


class Level:
    """One budget of upstream's, requests or tokens, as its headers told last and as it must be by now."""

    def __init__(self) -> None:
        self.cost = 1.0  # what one call uses
        self.size = 0.0  # the most that can be left; 0: no figure came yet
        self._sent: deque[float] = deque(maxlen=MOST_REMEMBERED)  # calls asked since the newest figure's call
        self._left = 0.0  # at the moment of the newest figure
        self._asked = -math.inf  # that moment: when the call that brought it was sent
        self._others = 0.0  # a second, used by others
        self._late = 0.0  # seconds by which figures are late
        self._used, self._time = 0.0, 0.0  # what is missing and how long its refill takes, as weighted sums
        self._least = 0.0  # a second, given back at least: what was used here while the budget did not fall
        self._balance = (-math.inf, 0.0)  # when the balance over BALANCE_OVER began, and what was left then
        self._spent = 0.0  # since then
        self._top: tuple[int, float | None] = (-1, None)  # the most that was left, with its reset
        self._top_at = 0.0

    def sent(self, now: float) -> None:
        """A call is asked. Counted before any figure came, too: the first one will be older than the last call."""
        self._sent.append(now)

    def seen(self, at: float, asked: float, limit: int | None, remaining: int, reset: float | None) -> None:
        """Take in an answer's figures.

        Args:
            at: monotonic, when they came.
            asked: monotonic, when their call was sent; figures of an earlier call than the newest are left out.
            limit, remaining, reset: as in LimitSeen.
        """
        size = float(limit) if limit else self._learn_size(asked, remaining, reset)
        if limit and size != self.size:
            self._used = self._time = self._others = self._least = 0.0
        self.size = size
        if asked < self._asked:
            return
        spent = 0.0
        while self._sent and self._sent[0] <= asked:
            self._sent.popleft()
            spent += self.cost
        if math.isfinite(self._asked):
            self._learn_others(asked, remaining, spent)
        self._left, self._asked = min(float(remaining), size), asked
        self._late += (at - asked - self._late) * LATE_WEIGHT
        self._learn_balance(spent)
        if limit and reset is not None and remaining < limit:
            self._measure(limit - remaining, reset + _rounding(reset))

    @property
    def refill(self) -> float:
        """What upstream gives back a second. Without any measure: the limits' names say a minute."""
        return max(self._used / self._time if self._time > 0 else self.size / 60, self._least)

    def fresh(self, now: float) -> bool:
        """Whether its figures still say something."""
        return self.size > 0 and now - self._asked < STALE_AFTER

    def left(self, now: float) -> float:
        """Return what must be left now: the newest figure, what was given back since, less what was used."""
        age = max(0.0, now - self._asked)
        left = self._left - self._others * min(age, self._late + OTHERS_AHEAD)
        if left + self.refill * age <= self.size:
            return max(left + self.refill * age - len(self._sent) * self.cost, 0.0)
        # It may have been full in between, and what comes to a full budget is lost.
        then = self._asked
        for moment in self._sent:
            left = min(self.size, left + self.refill * (moment - then)) - self.cost
            then = moment
        return max(min(self.size, left + self.refill * (now - then)), 0.0)

    def rate(self, now: float) -> float:
        """Return the calls a second that the budget bears, infinite while much is left."""
        left = self.left(now)
        share = left / self.size
        return math.inf if share >= FREE_ABOVE else (self.refill * (share / HALF) ** 2 + left / SPEND_OVER) / self.cost

    def when(self, now: float) -> float:
        """Return when there will be enough for a call."""
        return now + max(0.0, self.cost - self.left(now)) / self.refill

    def _measure(self, missing: float, seconds: float) -> None:
        """So much takes so long to be given back."""
        self._used = self._used * MEMORY + missing
        self._time = self._time * MEMORY + seconds

    def _learn_size(self, asked: float, remaining: int, reset: float | None) -> float:
        """Without a limit (Azure): the most that was left, and what was still missing then.

        Two figures with resets far apart measure the refill: what lies between them takes what lies between the resets.
        """
        if remaining > self._top[0] or asked - self._top_at > TOP_FOR:
            self._top, self._top_at = (remaining, reset), asked
        most, then = self._top
        if then is None or reset is None:
            return most + 1.0  # the call itself
        self._least = max(self._least, 1 / (then + 1))  # what is missing is the call at least
        if reset - then >= SURE_RESET:
            self._measure(most - remaining, reset - then)
        return most + max(1.0, self.refill * (then + _rounding(then)) if self._time else 0.0)

    def _learn_balance(self, spent: float) -> None:
        """What was used here while the budget did not fall has been given back."""
        self._spent += spent
        began, left = self._balance
        time = self._asked - began
        if time >= BALANCE_OVER:
            if math.isfinite(time):
                self._least = max(self._least * MEMORY, (self._spent + self._left - left) / time)
            self._balance, self._spent = (self._asked, self._left), 0.0

    def _learn_others(self, asked: float, remaining: int, spent: float) -> None:
        """What is missing and was neither spent here nor given back, others have used."""
        time = asked - self._asked
        expected = min(self.size, self._left + self.refill * time) - spent
        gap = expected - remaining
        self._others = min(max(self._others + (gap - self._others * time) / (time + OTHERS_OVER), 0.0), self.refill)


def _rounding(reset: float) -> float:
    """What is missing, on average, from a reset in whole seconds."""
    return 0.5 if reset == int(reset) else 0.0


class Learned:
    """The rate that refusals alone teach."""

    def __init__(self) -> None:
        self._calls = 0  # asked since the start; the second try of one that was refused is no new call
        self._lately, self._lately_at = 0.0, 0.0  # calls of about the last minute
        # Moments at which the budget was used up, each with the calls that had been accepted until then.
        self._empty: deque[tuple[float, int]] = deque(maxlen=MOMENTS)
        self._before = 0.0  # calls a second when the newest of them came
        self._law = "ramp"  # ramp, double, creep, steady
        self._base, self._since = 0.0, 0.0  # calls a second at that moment

    @property
    def met(self) -> bool:
        """Whether a refusal taught a rate."""
        return self._law != "ramp"

    def sent(self, now: float) -> None:
        """A call is asked."""
        self._calls += 1
        self._lately = self._lately * math.exp((self._lately_at - now) / 60) + 1
        self._lately_at = now

    def rate(self, now: float) -> float:
        """Return calls a second."""
        time = max(0.0, now - self._since)
        if self._law == "ramp":
            return math.inf if self._calls >= RAMP_CALLS else RAMP_START + RAMP_GAIN * self._calls
        if self._law == "double":
            return self._base * 2 ** min(time / DOUBLING, 60)
        if self._law == "steady":
            time = max(0.0, time - RAMP_STEADY)
        return self._base * (BELOW + time / CREEP + (time / LEAP) ** 3)

    def refused(self, now: float, resumes: float, first: bool) -> None:
        """A call was refused.

        Args:
            resumes: when calls go on.
            first: whether it is the first of its episode; the others had been on their way.
        """
        if first or not self._empty:
            self._before = self.rate(now)
            self._empty.append((now, self._calls - 1))
        else:
            at, accepted = self._empty[-1]
            self._empty[-1] = (at, accepted - 1)
        self._since = resumes
        if self._law == "ramp" or len(self._empty) == 1:
            self._law, self._base = "double", max(self._lately / 60, SLOWEST)
        else:
            steady = self._law != "double" and self._empty[-1][0] - self._empty[-2][0] >= LONG_MEASURE
            least = self._before * SMALLEST_CUT if steady else SLOWEST
            self._law, self._base = "creep", max(self._measured(), least)

    def slow_down(self, now: float, resumes: float) -> None:
        """Upstream says that the rate grew too fast: cut it, and keep it as long as upstream asks."""
        lately = 2 * self._lately / 60
        self._base = max(min(self.rate(now), lately) * RAMP_CUT, RAMP_LEAST)
        self._law, self._since = "steady", resumes

    def _measured(self) -> float:
        """What was accepted between the newest moment and one a measure's length before it, a second."""
        end, accepted = self._empty[-1]
        began, then = next(
            (moment for moment in reversed(self._empty) if end - moment[0] >= LONG_MEASURE), self._empty[0]
        )
        if end - began >= SHORTEST_MEASURE and accepted - then >= FEWEST_MEASURED:
            return (accepted - then) / (end - began)
        return self._before * UNMEASURED_CUT


class Pacer:
    """How many calls may be asked now. Owned by Fitness."""

    def __init__(self) -> None:
        self._requests, self._tokens, self._learned = Level(), Level(), Learned()
        self._credit, self._credit_at = 1.0, -math.inf
        self._measured = 0  # calls whose tokens are known
        self._waiting = 0  # calls of this episode that were refused and will be asked again

    def seen(self, seen: LimitSeen) -> None:
        """Take in an answer's figures."""
        asked = seen.at if seen.asked is None else seen.asked
        if seen.remaining_requests is not None:
            self._requests.seen(seen.at, asked, seen.limit_requests, seen.remaining_requests, seen.reset_requests)
        if seen.remaining_tokens is not None:
            self._tokens.seen(seen.at, asked, seen.limit_tokens, seen.remaining_tokens, seen.reset_tokens)

    def used(self, tokens: int) -> None:
        """A call used so many tokens, by upstream's count: what the next one is taken to cost."""
        if tokens > 0:
            self._measured += 1
            self._tokens.cost += (tokens - self._tokens.cost) * max(TOKENS_WEIGHT, 1 / self._measured)

    def sent(self, now: float) -> None:
        """A task is handed out, and asks at once."""
        self._requests.sent(now)
        self._tokens.sent(now)
        self._learned.sent(now)
        self._credit -= 1

    def refused(self, now: float, seen: LimitSeen, resumes: float, first: bool) -> float:
        """A call was refused by a limit.

        Args:
            resumes: when calls go on.
            first: whether it is the first of its episode; the others had been on their way.

        Returns:
            The seconds after `resumes` over which those that were refused should ask again.
        """
        if seen.kind is Kind.RAMP:
            self._learned.slow_down(now, resumes)
        elif not any(level.left(now) < LOW * level.size + level.cost for level in self._levels(now)):
            self._learned.refused(now, resumes, first)
        self._waiting = 1 if first else self._waiting + 1
        self._credit, self._credit_at = min(self._credit, 0.0) - 1, resumes
        return min(SPREAD * (self._waiting - 1) / self._base_rate(resumes), LONGEST_SPREAD)

    def rate(self, now: float) -> float:
        """Return the calls a second that may be asked now, infinite where nothing paces."""
        known = [level.rate(now) for level in self._levels(now)]
        if known and not self._learned.met:
            return min(known)
        return min([*known, self._learned.rate(now)])

    def room(self, now: float) -> int:
        """Return how many calls may be asked at once, now."""
        rate = self.rate(now)
        most = min((int(level.left(now) / level.cost) for level in self._levels(now)), default=UNPACED)
        if math.isinf(rate):
            self._credit, self._credit_at = max(self._credit, 1.0), now
            return most
        if now > self._credit_at:
            earned = rate * min(now - self._credit_at, LOOK_AGAIN)
            self._credit = min(self._credit + earned, max(1.0, rate * BURST))
            self._credit_at = now
        return max(0, min(int(self._credit + 1e-9), most))

    def again_at(self, now: float) -> float:
        """Return when `room` should be asked again, if it is 0 now."""
        rate = self.rate(now)
        paced = max(now, self._credit_at) + (max(0.0, 1 - self._credit) / rate if rate > 0 else LOOK_AGAIN)
        return min(max([paced, *(level.when(now) for level in self._levels(now))]), now + LOOK_AGAIN)

    def _levels(self, now: float) -> list[Level]:
        """The budgets that are known."""
        return [level for level in (self._requests, self._tokens) if level.fresh(now)]

    def _base_rate(self, now: float) -> float:
        """What upstream gives back, as far as it is known: the pace of those who ask again."""
        known = [level.refill / level.cost for level in self._levels(now)]
        return max(min([*known, self._learned.rate(now)]), SLOWEST_SPREAD)


class Ceiling:
    """The cap on calls at once, as refusals leave it: one cut an episode, up again by successes."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._cap = self._met = self._most

    @property
    def cap(self) -> int:
        """From 1 to the most."""
        return max(1, int(self._cap))

    def cut(self) -> None:
        """An episode began."""
        self._met = self._cap
        self._cap = max(1.0, self._cap * CUT)

    def grow(self) -> None:
        """A call that was asked after the episode succeeded."""
        step = 1.0 if self._cap < self._met * FAST_UNTIL else 1.0 / self._cap
        self._cap = min(self._most, self._cap + step)
