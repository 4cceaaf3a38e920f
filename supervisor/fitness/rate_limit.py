"""What a rate limit of upstream's asks for: a hold of the whole node, fewer calls at once, a pace. Pure (spec 5).

What becomes of the refused task itself: workernode/upstream/retry_policy.py. Every `now` is monotonic seconds.
"""

from __future__ import annotations

from supervisor.fitness.pacing import CallCap, Pacer
from workernode.protocol import LONGEST_WAIT_FOR_UPSTREAM, FaultInfo, FaultKind, Hold, RateLimitReport

# A 429 that names no wait: this long, doubled with every episode that follows without an answer between.
FIRST_WAIT = 0.5  # seconds
LONGEST_GUESS = 8.0  # seconds


class RateLimit:
    """The rate limit of one node's key."""

    def __init__(self, max_process_num: int) -> None:
        self.hold = Hold(0.0)  # sent to all workers whenever it changes
        self.pacer = Pacer()
        self.call_cap = CallCap(max_process_num)
        self.refused_at = 0.0  # the newest refusal
        self._guesses = 0  # episodes without a wait named and without an answer between

    def refused(self, now: float, seen: RateLimitReport, asked: float) -> FaultInfo:
        """A call was refused: hold all calls, and cut the cap once for each episode. An episode is the first refusal
        and all refusals of calls that were sent before its hold ended.

        Returns:
            The fault, with the seconds that upstream asks for (or the guess).
        """
        first = asked >= self.hold.until
        if first:
            self.call_cap.cut()
            self._guesses += 1
        wait = seen.retry_after
        if wait is None:
            wait = min(FIRST_WAIT * 2 ** min(self._guesses - 1, 10), LONGEST_GUESS)
        # A wait longer than LONGEST_WAIT_FOR_UPSTREAM holds nothing, because Azure names a day for a limit per minute
        # (azure-sdk-for-net#44222): probes find out when the limit lifts.
        until = max(self.hold.until, seen.at + wait if wait <= LONGEST_WAIT_FOR_UPSTREAM else now)
        self.hold = Hold(until, self.pacer.refused(now, seen, until, first))
        self.refused_at = seen.at
        return FaultInfo(seen.kind or FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", wait)

    def answered(self) -> None:
        """A call that was asked after the newest refusal was answered."""
        self._guesses = 0
        self.call_cap.grow()

    def is_held(self, now: float) -> bool:
        """Return whether nothing may be asked now."""
        return now < self.hold.until
