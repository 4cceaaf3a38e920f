"""How fast upstream may be asked, so that its limits are seldom hit: figures and refusals in, calls a second out. Pure.

`Pacer` combines two rates, of which the slower one counts: header_pacing.py follows the
rate-limit headers, refusal_pacing.py learns from refusals. `CallCap` is the cap on calls at once after refusals.
Every `now` is monotonic seconds and never goes back.
"""

from __future__ import annotations

import math

from supervisor.fitness.header_pacing import Budget
from supervisor.fitness.refusal_pacing import LearnedRate
from workernode.protocol import FaultKind, RateLimitReport

# After a pause of the main loop, at most the calls of this time are made up for at once.
LONGEST_CATCH_UP = 0.02  # seconds
# While pacing, the rate is worked out anew at least this often, because figures age.
RECHECK_INTERVAL = 0.25  # seconds
UNPACED = 1 << 30  # no limit
# Refused calls are spread over a time in which upstream gives back SPREAD times what they need, because other nodes'
# calls were refused as well; but over LONGEST_SPREAD at most.
SPREAD = 3.0
SLOWEST_SPREAD = 1.0  # calls a second, where less is known
LONGEST_SPREAD = 15.0  # seconds
TOKENS_WEIGHT = 0.05  # of the newest call in what a call is taken to cost: about the last twenty count

# A budget of which less is left explains a refusal. Else there is a limit that no header names.
LOW = 0.1  # of the whole

CUT = 0.8  # of the cap, once an episode
# Below this share of the cap at which the limit was met, the cap grows by 1 for each success; above it, by 1 for as
# many successes as the cap is.
FAST_UNTIL = 0.9


class Pacer:
    """How many calls may be asked now. Owned by FitnessStateMachine."""

    def __init__(self) -> None:
        self._requests, self._tokens, self._learned = Budget(), Budget(), LearnedRate()
        self._credit, self._credit_at = 1.0, -math.inf
        self._measured = 0  # calls whose tokens are known
        self._waiting = 0  # calls of this episode that were refused and will be asked again

    def seen(self, seen: RateLimitReport) -> None:
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

    def refused(self, now: float, seen: RateLimitReport, resumes: float, first: bool) -> float:
        """A call was refused by a limit.

        Args:
            resumes: when calls go on.
            first: whether it is the first of its episode; the others had been on their way.

        Returns:
            The seconds after `resumes` over which those that were refused should ask again.
        """
        is_known_budget_empty = any(budget.left(now) < LOW * budget.size + budget.cost for budget in self._budgets(now))
        if seen.kind is FaultKind.RAMP:
            self._learned.slow_down(now)
        elif not is_known_budget_empty:
            self._learned.refused(now, first)
        self._waiting = 1 if first else self._waiting + 1
        spread = min(SPREAD * (self._waiting - 1) / self._base_rate(resumes), LONGEST_SPREAD)
        if seen.kind is FaultKind.RAMP or not is_known_budget_empty:
            self._learned.resume(resumes + spread)
        # Where the budget is known from headers, the calls that ask again are paid for here; else the rate waits for
        # them.
        self._credit, self._credit_at = min(self._credit, 0.0) - is_known_budget_empty, resumes
        return spread

    def rate(self, now: float) -> float:
        """Return the calls a second that may be asked now, infinite where nothing paces."""
        known = [budget.rate(now) for budget in self._budgets(now)]
        if known and not self._learned.has_met_limit:
            return min(known)
        return min([*known, self._learned.rate(now)])

    def allowed(self, now: float) -> int:
        """Return how many calls may be asked at once, now."""
        rate = self.rate(now)
        most = min((int(budget.left(now) / budget.cost) for budget in self._budgets(now)), default=UNPACED)
        if math.isinf(rate):
            self._credit, self._credit_at = max(self._credit, 1.0), now
            return most
        if now > self._credit_at:
            earned = rate * min(now - self._credit_at, RECHECK_INTERVAL)
            self._credit = min(self._credit + earned, max(1.0, rate * LONGEST_CATCH_UP))
            self._credit_at = now
        return max(0, min(int(self._credit + 1e-9), most))

    def again_at(self, now: float) -> float:
        """Return when `allowed` should be asked again, if it is 0 now."""
        rate = self.rate(now)
        paced = max(now, self._credit_at) + (max(0.0, 1 - self._credit) / rate if rate > 0 else RECHECK_INTERVAL)
        return min(max([paced, *(budget.when(now) for budget in self._budgets(now))]), now + RECHECK_INTERVAL)

    def _budgets(self, now: float) -> list[Budget]:
        """The budgets that are known."""
        return [budget for budget in (self._requests, self._tokens) if budget.fresh(now)]

    def _base_rate(self, now: float) -> float:
        """What upstream gives back, as far as it is known: the pace of those who ask again."""
        known = [budget.refill / budget.cost for budget in self._budgets(now)]
        return max(min([*known, self._learned.rate(now)]), SLOWEST_SPREAD)


class CallCap:
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
