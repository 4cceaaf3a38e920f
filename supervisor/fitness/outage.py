"""Whether upstream is away: it refuses connections, loads its model, or fails with every task. Pure.

A few tasks that fail one after the other, without an answer between, are the sign. Every `now` is monotonic seconds.
"""

from __future__ import annotations

import math

from workernode.protocol import FaultInfo, FaultKind

# So many different tasks must have failed. A plain failure (a 500, half an answer) is weaker evidence than a refused
# connection.
ENOUGH = {FaultKind.UNAVAILABLE: 3, FaultKind.PASSING: 5}

# Single failed calls count only if the tasks that they belong to are so many of those that run: a provider that fails
# one call in three is not away.
MOST = 0.75


class Outage:
    """The failures since the last answer."""

    def __init__(self) -> None:
        self._answered_asked = -math.inf  # when the newest call that was answered had been asked
        self._failed: dict[FaultKind, set[str]] = {kind: set() for kind in ENOUGH}  # request ids
        self._calls: dict[FaultKind, set[str]] = {kind: set() for kind in ENOUGH}  # request ids of single failed calls

    def answered(self, asked_at: float) -> None:
        """A task was answered."""
        self._answered_asked = max(self._answered_asked, asked_at)
        for failed in (*self._failed.values(), *self._calls.values()):
            failed.clear()

    def call_failed(self, request_id: str, asked_at: float, fault: FaultInfo, running: int) -> bool:
        """A call failed; the worker may ask again.

        Args:
            running: tasks at workers.

        Returns:
            True if upstream is away: enough tasks failed, and they are most of those that run.
        """
        if asked_at <= self._answered_asked or fault.kind not in ENOUGH:
            return False
        calls = self._calls[fault.kind]
        calls.add(request_id)
        return len(calls) >= max(ENOUGH[fault.kind], MOST * running)

    def failed(self, request_id: str, asked_at: float, fault: FaultInfo) -> bool:
        """A task failed, after the worker's own retries.

        Returns:
            True if upstream is away.
        """
        if asked_at <= self._answered_asked or fault.kind not in ENOUGH:
            return False
        failed = self._failed[fault.kind]
        failed.add(request_id)
        return len(failed) >= ENOUGH[fault.kind]
