"""One budget of upstream's, known from its rate-limit headers: figures in, calls a second out. Pure.

While much of it is left nothing is paced; below that the rate is what upstream refills, times (share left / HALF)
squared. All nodes that share a key see the same share and so come to the same rate, without knowing of each other; the
budget settles near its half, far from empty. Every `now` is monotonic seconds and never goes back.
"""

from __future__ import annotations

import math
from collections import deque

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
# Older figures are not used.
STALE_AFTER = 60.0  # seconds
MOST_REMEMBERED = 2048  # calls on their way: more than any node has
# Weight of what was known against the newest answer, when the refill is measured: about the last ten answers count.
MEMORY = 0.9

# Two resets in whole seconds that are nearer to each other are too coarse to measure by.
SURE_RESET = 2.0  # seconds
BALANCE_OVER = 2.0  # seconds
TOP_FOR = 600.0  # seconds that a figure stands for the most there can be: a limit may have been lowered


class Budget:
    """One budget of upstream's, requests or tokens, by its newest headers, and by what must have happened since."""

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
            limit, remaining, reset: as in RateLimitReport.
        """
        size = float(limit) if limit else self._learn_size(asked, remaining, reset)
        if not limit and reset is not None and size > remaining:  # in whole seconds: what is missing takes one more
            self._least = max(self._least, (size - remaining) / (reset + 1))
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
        """What upstream gives back a second. Without any measure: the limit is taken as one per minute."""
        return max(self._used / self._time if self._time > 0 else self.size / 60, self._least)

    def fresh(self, now: float) -> bool:
        """Return whether its figures are new enough to be used."""
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
