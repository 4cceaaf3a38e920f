"""How a delivery ended → the Outcome for the supervisor, with its billing record. Pure.

Every way a delivery can end is an `End`. A worker makes one for the tasks that it ran, the supervisor for the tasks of
which no worker can know.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from workernode import record
from workernode.cached_tokens import cached_tokens
from workernode.call_stats import BrokenPart, CallStats
from workernode.errors import UpstreamFault
from workernode.prices import Cost
from workernode.protocol import NODE_KINDS, Decision, Durations, FaultInfo, Job, Outcome
from workernode.redaction import redact
from workernode.settings import Settings
from workernode.task import Task
from workernode.trace_context import TraceContext
from workernode.usage import Estimate, billed_usage, token_count

log = logging.getLogger(__name__)

MOST_LOGGED_MODELS = 100  # a client decides what model it asks for


@dataclass(frozen=True, slots=True)
class End:
    """One way a delivery ended: a row of the table in spec 4."""

    status: str  # "answered", "refused", "expired", ...
    decision: Decision
    error: dict[str, Any] | None = None  # an OpenAI error body: the error that the client got, or would have got
    fault: UpstreamFault | FaultInfo | None = None  # the upstream fault, if one decided it
    reason: str = ""  # for the dead letter, and for people
    end_reason: str = ""  # for the record; "": upstream's finish_reason, else the fault's code, else the status
    upstream_answered: bool = False  # upstream answered this task well


@dataclass(slots=True)
class Facts:
    """What is known of a delivery. Filled while it runs, by its one owner. Moments are monotonic seconds."""

    job: Job
    request_id: str = ""  # "" while it is not known
    task: Task | None = None  # None: the message could not be read, or no worker read it
    asked: CallStats = field(default_factory=CallStats)
    answering_since: float | None = None  # from then on the answer, or the error, was on its way to the gateway
    answered_at: float | None = None  # the gateway had all of it
    trace: TraceContext | None = None  # None: nothing of the message could be read
    changed: tuple[str, ...] = ()  # what the operator's guards changed in the chat request, dotted names
    estimate: Estimate | None = None  # of the tokens, where upstream sent no usage and there is a tokenizer


class OutcomeBuilder:
    """Makes the outcomes of one node. Shared by the tasks of a process."""

    def __init__(self, settings: Settings, node: record.Node) -> None:
        self._settings = settings
        self._node = node
        self._without_price: set[str] = set()  # models that were logged

    def build(self, end: End, facts: Facts, now: float) -> Outcome:
        """Return the outcome of a delivery that ended now.

        Args:
            now: monotonic seconds.
        """
        asked = facts.asked
        usage, usage_source = billed_usage(asked, facts.estimate)
        durations = _durations(facts, now)
        cost = self._cost(facts, usage)
        return Outcome(
            number=facts.job.number,
            request_id=facts.request_id,
            decision=end.decision,
            status=end.status,
            record=record.encode(self._record(end, facts, usage, usage_source, cost, durations)),
            fault=self._fault_info(end.fault),
            upstream_answered=end.upstream_answered,
            reason=end.reason,
            client_error=_client_error(end),
            attempts=asked.attempts,
            resumes=len(asked.broken),
            asked_at=asked.sent_at,
            stream=facts.task.stream if facts.task else False,
            prompt_tokens=token_count(usage, "prompt_tokens"),
            completion_tokens=token_count(usage, "completion_tokens"),
            cached_tokens=cached_tokens(usage),
            durations=durations,
            cost=float(cost.amount) if cost else 0.0,
            trace=facts.trace,
        )

    def _record(
        self,
        end: End,
        facts: Facts,
        usage: dict[str, Any] | None,
        usage_source: str,
        cost: Cost | None,
        durations: Durations,
    ) -> record.Record:
        settings, job, task, asked, fault = self._settings, facts.job, facts.task, facts.asked, end.fault
        model = task.data.get("model") if task else None
        size = len(job.payload)
        return record.Record(
            request_id=facts.request_id,
            trace_id=facts.trace.trace_id if facts.trace else None,
            delivery=job.number,
            node=self._node,
            status=end.status,
            decision=end.decision,
            model=model if isinstance(model, str) else settings.model_name,
            upstream_model=asked.model or (settings.upstream_model or None if task else None),
            ai_model_name=settings.aimodel_name or None,
            ai_model_namespace=settings.aimodel_namespace or None,
            usage=usage,
            usage_source=usage_source,
            cost=cost,
            client=record.client_of(task.headers, task.data, settings.record_salt) if task else record.Client(),
            request=record.request_of(task.data, stream=task.stream, size=size, changed=facts.changed)
            if task
            else record.Request(bytes=size),
            times=_times(facts),
            durations=durations,
            attempts=asked.attempts,
            resumes=tuple(self._resume(facts, part) for part in asked.broken),
            redeliveries=job.redeliveries,
            supersedes=job.supersedes or None,
            end_reason=end.end_reason or asked.finish_reason or (self._redact(fault.code) if fault else end.status),
            http_status=fault.http_status if fault else asked.http_status,
            error=record.error_of(end.error, upstream_status=fault.http_status if fault else 0),
        )

    def _cost(self, facts: Facts, usage: dict[str, Any] | None) -> Cost | None:
        """What upstream's answer cost; a model without a price is logged once."""
        prices, asked = self._settings.prices, facts.asked
        if prices is None or usage is None:
            return None
        wanted = facts.task.data.get("model") if facts.task else None
        sent = self._settings.upstream_model or (wanted if isinstance(wanted, str) else self._settings.model_name)
        cost = prices.cost((asked.model, sent), usage)
        if cost is None and sent not in self._without_price and len(self._without_price) < MOST_LOGGED_MODELS:
            self._without_price.add(sent)
            about = {"event": "price_missing", "upstream_model": sent}
            log.warning("PRICES has no price for model %s: its records have no cost", sent, extra=about)
        return cost

    def _fault_info(self, fault: UpstreamFault | FaultInfo | None) -> FaultInfo | None:
        """Return a fault as the supervisor gets it: upstream's text without secrets."""
        if fault is None:
            return None
        info = fault if isinstance(fault, FaultInfo) else fault.info()
        return FaultInfo(
            info.kind, info.http_status, self._redact(info.code), self._redact(info.message), info.retry_after
        )

    def _resume(self, facts: Facts, part: BrokenPart) -> record.Resume:
        at = facts.job.received + (part.at - facts.job.received_at)
        return record.Resume(self._redact(part.reason), at, part.tokens)

    def _redact(self, text: str) -> str:
        return redact(text, self._settings.secrets)


def _client_error(end: End) -> dict[str, Any] | None:
    """The error that the client of a nak'd task gets if the fault turns out to be the task's own (spec 5)."""
    is_open = end.decision is Decision.NAK and end.fault is not None and end.fault.kind in NODE_KINDS
    return end.error if is_open else None


def _times(facts: Facts) -> record.Times:
    job, asked = facts.job, facts.asked

    def wall(moment: float | None) -> float | None:
        return None if moment is None else job.received + (moment - job.received_at)

    return record.Times(
        job.published,
        job.received,
        wall(asked.sent_at),
        wall(asked.first_token_at),
        wall(asked.done_at),
        wall(facts.answered_at),
    )


def _durations(facts: Facts, now: float) -> Durations:
    job, asked = facts.job, facts.asked
    return Durations(
        queue=max(0.0, job.received - job.published),
        waiting=_between(job.received_at, asked.first_sent_at),
        first_token=_between(asked.began_at, asked.first_token_at),
        upstream=_between(asked.began_at, asked.done_at),
        answer=_between(facts.answering_since, facts.answered_at),
        total=now - job.received_at,
    )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


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
