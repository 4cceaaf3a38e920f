"""What becomes of a task that upstream refused or failed: by whose fault it is, and by the time that is left. Pure."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.fitness.blame import Verdict
from workernode.errors import unfit_error
from workernode.protocol import LONGEST_WAIT_FOR_UPSTREAM, Decision, FaultInfo, FaultKind, Outcome, Rejection

# A refused task is kept at the node for so long, until it is known whose fault that is; then another node may try.
KEPT_FOR = 1.0  # seconds
# What upstream asks to wait for, where the task would only be refused again. Other faults are of this node's upstream:
# another node may serve the task at once.
WAITED_FOR = (FaultKind.RATE_LIMIT, FaultKind.RAMP)


class RefusedTasks:
    """The refused tasks that wait until it is known whose fault that is."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, Outcome]] = {}  # until (monotonic), by the number of the delivery

    def keep(self, now: float, number: int, outcome: Outcome) -> None:
        """Keep a refused task, for KEPT_FOR at most."""
        self._waiting[number] = (now + KEPT_FOR, outcome)

    def decided(self, now: float, verdict_of: Callable[[str], Verdict]) -> list[tuple[int, Outcome, Verdict]]:
        """Return, and keep no longer, the tasks of which it is known whose fault it is, or whose time is over.

        Args:
            now: monotonic.
            verdict_of: whose fault the refusal of the task with this request id is.
        """
        if not self._waiting:
            return []
        verdicts = [
            (number, until, outcome, verdict_of(outcome.request_id))
            for number, (until, outcome) in self._waiting.items()
        ]
        over = [
            (number, outcome, verdict)
            for number, until, outcome, verdict in verdicts if verdict is not Verdict.OPEN or now >= until
        ]  # fmt: skip
        for number, _, _ in over:
            del self._waiting[number]
        return over


def after_refusal(verdict: Verdict, outcome: Outcome, is_used_up: bool) -> Rejection | None:
    """Return the error that the client of a refused task gets; None: the task is nak'd, another node may serve it.

    Args:
        verdict: TASK, or NODE, or OPEN if the time to decide is over.
        outcome: of the refused task; it has upstream's error in `client_error`.
        is_used_up: the message was delivered as often as it may be.
    """
    fault = outcome.fault
    assert fault is not None
    if verdict is Verdict.TASK:
        assert outcome.client_error is not None
        return Rejection("refused", Decision.ACK, outcome.client_error, fault.http_status)
    if not is_used_up:
        return None
    # While nothing is decided, no client's error mentions the node's key.
    shown = fault if verdict is Verdict.NODE else FaultInfo(FaultKind.UNAVAILABLE, fault.http_status, "", "")
    return Rejection("gave_up", Decision.ACK, unfit_error(shown), fault.http_status)


def nak_delay(fault: FaultInfo | None, shortest: float) -> float:
    """Return the seconds before the broker hands a task out again.

    Args:
        fault: why it is nak'd.
        shortest: NAK_DELAY.
    """
    asked = fault.retry_after if fault is not None and fault.kind in WAITED_FOR else None
    return max(shortest, asked) if asked is not None and asked <= LONGEST_WAIT_FOR_UPSTREAM else shortest
