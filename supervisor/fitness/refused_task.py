"""What becomes of a task that upstream refused or failed: by whose fault it is, and by the time that is left. Pure."""

from __future__ import annotations

from supervisor.fitness.blame import Verdict
from workernode.errors import unfit_error
from workernode.protocol import Decision, FaultInfo, FaultKind, Outcome, Rejection

# A refused task is kept at the node for so long, until it is known whose fault that is; then another node may try.
KEPT_FOR = 1.0  # seconds
# A longer wait is a hint, not an order: the task goes to whoever is free.
LONGEST_NAK = 60.0  # seconds
# What upstream asks to wait for, where the task would only be refused again. Other faults are of this node's upstream:
# another node may serve the task at once.
WAITED_FOR = (FaultKind.RATE_LIMIT, FaultKind.RAMP)


def after_refusal(verdict: Verdict, outcome: Outcome, is_used_up: bool) -> Rejection | None:
    """Return what a worker has to tell the client of a refused task; None: it is nak'd, another node may serve it.

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
    # As long as nothing is decided no client is told of a key.
    told = fault if verdict is Verdict.NODE else FaultInfo(FaultKind.UNAVAILABLE, fault.http_status, "", "")
    return Rejection("gave_up", Decision.ACK, unfit_error(told), fault.http_status)


def nak_delay(fault: FaultInfo | None, shortest: float) -> float:
    """Return the seconds before the broker hands a task out again.

    Args:
        fault: why it is nak'd.
        shortest: NAK_DELAY.
    """
    asked = fault.retry_after if fault is not None and fault.kind in WAITED_FOR else None
    return max(shortest, asked) if asked is not None and asked <= LONGEST_NAK else shortest
