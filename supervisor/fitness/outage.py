"""Whether upstream is away: it refuses connections, loads its model, or fails with every task. Pure.

A few tasks that fail one after the other, without an answer between, make it likely: they may also be tasks that each
make upstream fail. The self-check decides; where none is made (a local model), the tasks do. Every `now` is monotonic
seconds.
"""

from __future__ import annotations

import math

from supervisor.events import SelfChecked
from workernode.protocol import FaultInfo, FaultKind

# So many different tasks must have failed. A plain failure (a 500, half an answer) is weaker evidence than a refused
# connection.
ENOUGH = {FaultKind.UNAVAILABLE: 3, FaultKind.PASSING: 5}

# Single failed calls count only if the tasks that they belong to are so many of those that run: a provider that fails
# one call in three is not away.
MOST = 0.75


class Outage:
    """The failures since the last answer."""

    def __init__(self, can_check: bool = False) -> None:
        """Know of no failure.

        Args:
            can_check: a self-check is made when `suspected` is set.
        """
        self.suspected: FaultInfo | None = None  # upstream may be away: the self-check shows whether it is
        self._can_check = can_check
        self._answered_asked = -math.inf  # when the newest call that was answered had been asked
        self._failed: dict[FaultKind, set[str]] = {kind: set() for kind in ENOUGH}  # request ids
        self._calls: dict[FaultKind, set[str]] = {kind: set() for kind in ENOUGH}  # request ids of single failed calls

    @property
    def has_failures(self) -> bool:
        """Whether a call has failed since the last answer."""
        return any(self._failed.values()) or any(self._calls.values())

    def answered(self, asked_at: float) -> None:
        """Upstream answered a call that was asked then: what failed before proves nothing any more."""
        self._answered_asked = max(self._answered_asked, asked_at)
        self.suspected = None
        for failed in (*self._failed.values(), *self._calls.values()):
            failed.clear()

    def call_failed(self, request_id: str, asked_at: float, fault: FaultInfo, running: int) -> None:
        """A call failed; the worker may ask again. Enough such calls make a self-check due.

        Args:
            running: tasks at workers.
        """
        if asked_at <= self._answered_asked or fault.kind not in ENOUGH:
            return
        calls = self._calls[fault.kind]
        calls.add(request_id)
        if self._can_check and len(calls) >= max(ENOUGH[fault.kind], MOST * running):
            self.suspected = fault

    def failed(self, request_id: str, asked_at: float, fault: FaultInfo) -> bool:
        """A task failed, after the worker's own retries. Enough such tasks make a self-check due.

        Returns:
            True if upstream is away, because enough tasks failed and no self-check can be made.
        """
        if asked_at <= self._answered_asked or fault.kind not in ENOUGH:
            return False
        failed = self._failed[fault.kind]
        failed.add(request_id)
        if len(failed) < ENOUGH[fault.kind]:
            return False
        if self._can_check:
            self.suspected = fault
        return not self._can_check

    def self_checked(self, seen: SelfChecked) -> FaultInfo | None:
        """A self-check has ended. One that is refused also shows that upstream is there.

        Returns:
            The fault with which upstream is away: that of the tasks; None: it is not, or no task failed.
        """
        if seen.fault is None or seen.fault.kind not in ENOUGH:
            self.answered(seen.asked_at)
        suspected, self.suspected = self.suspected, None
        return suspected
