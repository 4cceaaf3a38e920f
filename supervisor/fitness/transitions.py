"""The states of fitness: what moves the node from one to the other, and the reasons of reports. Data only. Pure."""

from __future__ import annotations

from supervisor.states import FitnessState
from workernode.protocol import NODE_KINDS, FaultInfo, FaultKind

MOVES = {
    (FitnessState.FIT, "limited"): FitnessState.LIMITED,
    (FitnessState.LIMITED, "lifted"): FitnessState.FIT,
    (FitnessState.LIMITED, "lasted"): FitnessState.UNFIT,
    (FitnessState.FIT, "suspected"): FitnessState.SUSPECT,
    (FitnessState.LIMITED, "suspected"): FitnessState.SUSPECT,
    (FitnessState.SUSPECT, "cleared"): FitnessState.FIT,
    (FitnessState.SUSPECT, "refused"): FitnessState.UNFIT,
    (FitnessState.FIT, "refused"): FitnessState.UNFIT,
    (FitnessState.LIMITED, "refused"): FitnessState.UNFIT,
    (FitnessState.AWAY, "refused"): FitnessState.UNFIT,
    (FitnessState.FIT, "failed"): FitnessState.AWAY,
    (FitnessState.LIMITED, "failed"): FitnessState.AWAY,
    (FitnessState.SUSPECT, "failed"): FitnessState.AWAY,
    (FitnessState.AWAY, "answered"): FitnessState.FIT,
    (FitnessState.AWAY, "lasted"): FitnessState.UNFIT,
    (FitnessState.UNFIT, "answered"): FitnessState.FIT,
}  # a pair that is not here is a bug, and raises KeyError

LIMITS = (FaultKind.RATE_LIMIT, FaultKind.RAMP)
OUTAGES = (FaultKind.UNAVAILABLE, FaultKind.PASSING)
# The reason of the report (spec 1.3).
REASONS = {
    FaultKind.KEY: "AuthenticationError",
    FaultKind.REFUSED: "AuthenticationError",
    FaultKind.QUOTA: "APIQuotaExceededError",
    FaultKind.MODEL: "ConfigurationError",
    FaultKind.ADDRESS: "ConfigurationError",
    FaultKind.CERTIFICATE: "ConfigurationError",
    FaultKind.RATE_LIMIT: "APIQuotaExceededError",
    FaultKind.RAMP: "APIQuotaExceededError",
    FaultKind.UNAVAILABLE: "GeneralError",
    FaultKind.PASSING: "GeneralError",
}


def describe_suspicion(fault: FaultInfo) -> str:
    """Return the sentence for people about a refusal that is not decided yet."""
    answer = " ".join(str(part) for part in (fault.http_status or "no answer", fault.code) if part)
    return f"upstream refused a task ({answer}); the next answers show whether the fault is the task's or the node's"


def replaces_reason(found: FaultKind, reported: FaultKind) -> bool:
    """Return whether what a probe of an unfit node found replaces what was reported.

    A plain 401 or 403 may be the probe's own, and a short limit passes: neither does.
    """
    return found in NODE_KINDS and found is not FaultKind.REFUSED and found is not reported
