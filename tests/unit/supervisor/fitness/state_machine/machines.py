"""State machines in each state, and what happens to them: calls that are answered, refused, or fail."""

from __future__ import annotations

from supervisor.fitness import Admission, Admit, FitnessStateMachine
from supervisor.upstream import FaultMessages
from workernode.protocol import (
    FaultInfo,
    FaultKind,
    RateLimitReport,
)

EXPLAIN = FaultMessages("https://api.openai.com", "gpt-4", "prod/gpt-4")
KEY = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "Incorrect API key provided: sk-***.")
QUOTA = FaultInfo(FaultKind.QUOTA, 429, "insufficient_quota", "You exceeded your current quota.")
MODEL = FaultInfo(FaultKind.MODEL, 404, "model_not_found", "The model does not exist.")
ADDRESS = FaultInfo(FaultKind.ADDRESS, 404, "", "")
CERTIFICATE = FaultInfo(FaultKind.CERTIFICATE, 0, "certificate_not_trusted", "")
FIREWALL = FaultInfo(FaultKind.REFUSED, 403, "", "")
LOADING = FaultInfo(FaultKind.UNAVAILABLE, 503, "unavailable_error", "Loading model")
BOOM = FaultInfo(FaultKind.PASSING, 500, "", "boom")


def made() -> FitnessStateMachine:
    return FitnessStateMachine(64, EXPLAIN)


def refuse(fitness: FitnessStateMachine, now: float, wait: float | None = 1.0, asked: float | None = None) -> None:
    """A call is answered 429."""
    fitness.limit_seen(now, RateLimitReport(at=now, kind=FaultKind.RATE_LIMIT, asked=asked or now, retry_after=wait))


def answer(fitness: FitnessStateMachine, now: float, asked: float | None = None) -> None:
    """A call is answered well."""
    fitness.ended(now, now if asked is None else asked, None, upstream_answered=True, was_probe=False)


def fail(fitness: FitnessStateMachine, now: float, fault: FaultInfo | None, request_id: str = "one") -> None:
    """A task ends with a fault."""
    fitness.ended(now, now, fault, upstream_answered=False, was_probe=False, request_id=request_id)


def fail_all(fitness: FitnessStateMachine, now: float, fault: FaultInfo, tasks: int = 3) -> None:
    """Several tasks end with the same fault."""
    for number in range(tasks):
        fail(fitness, now, fault, f"task {number}")


def probe(fitness: FitnessStateMachine, now: float, fault: FaultInfo | None, well: bool = False) -> None:
    """The task taken now is the probe, and ends at once."""
    assert fitness.admit(now) == Admission(Admit.PROBE)
    fitness.ended(now, now, fault, upstream_answered=well, was_probe=True, request_id="probe")


def unfit(fault: FaultInfo = KEY, now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    fail_all(fitness, now, fault)
    return fitness


def limited(now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    refuse(fitness, now)
    return fitness


def suspect(now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    fail(fitness, now, FIREWALL)
    return fitness


def away(now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    fail_all(fitness, now, LOADING)
    return fitness
