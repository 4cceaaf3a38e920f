"""How a delivery ended → the Outcome for the supervisor, with its billing record as bytes. Pure.
"""

from __future__ import annotations

from typing import Any

from workernode import record
from workernode.cached_tokens import cached_tokens
from workernode.errors import UpstreamFault
from workernode.facts import End, Facts
from workernode.protocol import NODE_KINDS, Decision, FaultInfo, Outcome
from workernode.record_builder import RecordBuilder
from workernode.redaction import redact
from workernode.settings import Settings
from workernode.usage import token_count


class OutcomeBuilder:
    """Makes the outcomes of one node. Shared by the tasks of a process."""

    def __init__(self, settings: Settings, node: record.Node) -> None:
        self._settings = settings
        self._records = RecordBuilder(settings, node)

    def build(self, end: End, facts: Facts, now: float) -> Outcome:
        """Return the outcome of a delivery that ended now.

        Args:
            now: monotonic seconds.
        """
        asked = facts.asked
        made = self._records.build(end, facts, now)
        return Outcome(
            number=facts.job.number,
            request_id=facts.request_id,
            decision=end.decision,
            status=end.status,
            record=record.encode(made),
            fault=self._fault_info(end.fault),
            upstream_answered=end.upstream_answered,
            reason=end.reason,
            client_error=_client_error(end),
            attempts=asked.attempts,
            resumes=len(asked.broken),
            asked_at=asked.sent_at,
            stream=facts.task.stream if facts.task else False,
            prompt_tokens=token_count(made.usage, "prompt_tokens"),
            completion_tokens=token_count(made.usage, "completion_tokens"),
            cached_tokens=cached_tokens(made.usage),
            durations=made.durations,
            cost=float(made.cost.amount) if made.cost else 0.0,
            trace=facts.trace,
        )

    def _fault_info(self, fault: UpstreamFault | FaultInfo | None) -> FaultInfo | None:
        """Return a fault as the supervisor gets it: upstream's text without secrets."""
        if fault is None:
            return None
        info = fault if isinstance(fault, FaultInfo) else fault.info()
        return FaultInfo(
            info.kind, info.http_status, self._redact(info.code), self._redact(info.message), info.retry_after
        )

    def _redact(self, text: str) -> str:
        return redact(text, self._settings.secrets)


def _client_error(end: End) -> dict[str, Any] | None:
    """The error that the client of a nak'd task gets if the fault turns out to be the task's own (spec 5)."""
    is_open = end.decision is Decision.NAK and end.fault is not None and end.fault.kind in NODE_KINDS
    return end.error if is_open else None


def log_fields(outcome: Outcome, worker: int | None, redeliveries: int) -> dict[str, object]:
    """The log's fields for the end of a task: never a text of the prompt or the answer."""
    fields: dict[str, object] = {
        "event": "task_ended",
        "request_id": outcome.request_id,
        "status": outcome.status,
        "decision": outcome.decision.value,
        "attempt": outcome.attempts,
        "resumes": outcome.resumes,
        "worker": worker,
        "redeliveries": redeliveries,
        "total_ms": round(outcome.durations.total * 1000, 1) if outcome.durations.total is not None else None,
    }
    fault: FaultInfo | None = outcome.fault
    if fault is not None:
        fields |= {"http_status": fault.http_status, "code": fault.code, "why": fault.message}
    if outcome.reason:
        fields["why"] = outcome.reason
    if outcome.trace is not None:
        fields["trace_id"] = outcome.trace.trace_id
    return fields
