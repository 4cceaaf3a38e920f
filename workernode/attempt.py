"""One delivery of a task, from its bytes to its Outcome. Reads like the table of spec 4, top to bottom.

Every way through ends in `_Attempt.end`, which makes the record; nothing escapes as an exception.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from workernode import record
from workernode.body import UnsendableBody, for_upstream, wants_usage
from workernode.errors import ClientGone, UpstreamFault, malformed_error, timeout_error
from workernode.gateway.reply import Delivery, Gateways, StreamReply
from workernode.protocol import (
    NODE_KINDS,
    AnswerState,
    Decision,
    Durations,
    FaultInfo,
    FaultKind,
    Job,
    Outcome,
    Rejection,
)
from workernode.redaction import hide_secrets_in_body, redact
from workernode.settings import Settings
from workernode.task import Endpoint, MalformedTask, Task, parse
from workernode.upstream.client import Asked, Question, Upstream

log = logging.getLogger(__name__)

# What a kind of fault is called in the outcome of a task that goes back to the broker.
SENT_BACK = {
    FaultKind.PASSING: "upstream_trouble",
    FaultKind.UNAVAILABLE: "upstream_trouble",
    FaultKind.RATE_LIMIT: "rate_limited",
    FaultKind.RAMP: "rate_limited",
    FaultKind.QUOTA: "quota_used_up",
    FaultKind.KEY: "key_refused",
    FaultKind.MODEL: "model_unknown",
    FaultKind.ADDRESS: "address_unknown",
    FaultKind.CERTIFICATE: "certificate_refused",
    FaultKind.REFUSED: "access_refused",
}
# How the way to the gateway ended → the outcome's status, where upstream had answered.
DELIVERED = {
    Delivery.TAKEN: "answered",
    Delivery.GONE: "client_gone",
    Delivery.UNCONFIRMED: "unconfirmed",
    Delivery.UNREACHABLE: "gateway_unreachable",
    Delivery.REFUSED: "gateway_refused",
}


@dataclass(frozen=True, slots=True)
class Services:
    """What an attempt works with; shared by the threads of a worker."""

    settings: Settings
    upstream: Upstream
    gateways: Gateways
    node: record.Node


class Progress(Protocol):
    """What the supervisor sees of an attempt while it runs, even if its process is killed."""

    def show_answer_state(self, state: AnswerState) -> None:
        """So much may have left for the client; told before it leaves."""

    def count_tokens(self, tokens: int) -> None:
        """So many more tokens came from upstream."""


def run(job: Job, services: Services, progress: Progress) -> Outcome:
    """Run the task and return how it ended."""
    attempt = _Attempt(job, services, progress)
    try:
        return attempt.through()
    except Exception as exc:  # the edge: a fault of ours must still yield a decision
        log.exception("a fault of the node", extra={"event": "attempt_failed", "request_id": attempt.request_id})
        fault = exc
    try:
        return attempt.stumbled(fault)
    except Exception:  # it fails at telling the client, too: kept for a person to look at
        log.exception("a fault of the node", extra={"event": "attempt_failed", "request_id": attempt.request_id})
        reason = f"the node itself failed ({type(fault).__name__}), and failed at telling the client"
        return attempt.end(Decision.DEAD_LETTER, "poison", reason=reason)


class _Attempt:
    """What is known of this delivery so far. Owned by one thread."""

    def __init__(self, job: Job, services: Services, progress: Progress) -> None:
        self._job = job
        self._services = services
        self._progress = progress
        self._left = AnswerState.NOT_STARTED
        self.task: Task | None = None
        self._asked = Asked()
        self._answered_at: float | None = None
        self._answering_since: float | None = None

    @property
    def request_id(self) -> str:
        """Whose it is; "" while that is not known."""
        return self.task.request_id if self.task else ""

    def through(self) -> Outcome:
        """Run it."""
        job = self._job
        try:
            task = self.task = parse(job.payload, self._services.settings.reply_hosts)
        except MalformedTask as fault:
            return self.malformed(fault)
        if job.rejection is not None:
            return self.tell(job.rejection)
        if time.monotonic() >= job.deadline:
            return self.expired()
        return self.stream(task) if task.stream else self.plain(task)

    # --- the rows of spec 4 ---

    def plain(self, task: Task) -> Outcome:
        """stream=false: ask, and POST the answer."""
        try:
            raw = self._services.upstream.complete(self._question(task), self._asked)
        except UnsendableBody as exc:
            return self.malformed(MalformedTask(str(exc), task.request_id, task.endpoint, False))
        except UpstreamFault as fault:
            return self.failed(fault, None)
        self._progress.count_tokens(_figure(self._asked.usage, "completion_tokens"))
        self._answering_since = time.monotonic()
        delivery = self._services.gateways.post(task.endpoint, task.request_id, raw, self._job.deadline)
        return self._delivered(delivery)

    def stream(self, task: Task) -> Outcome:
        """stream=true: ask, and pass each chunk on as it comes."""
        reply = self._reply(task.endpoint, task.request_id)
        relay = None
        try:
            question = self._question(task)
            relay = self._services.upstream.stream(question, self._asked, reply, reply.connect)
            for batch in relay.batches():
                chunks = [chunk.raw for chunk in batch if question.with_usage or not chunk.bare_usage]
                if chunks:
                    reply.send(chunks)
                self._progress.count_tokens(sum(chunk.has_text for chunk in batch))
            self._answering_since = self._asked.done_at
            delivery = reply.end()
            relay.finish()
        except UnsendableBody as exc:
            return self.malformed(MalformedTask(str(exc), task.request_id, task.endpoint, True))
        except ClientGone as gone:
            if relay is not None:
                relay.abort()
            reply.abort()
            return self.end(Decision.ACK, "client_gone", end_reason=str(gone))
        except UpstreamFault as fault:
            if relay is not None:
                relay.abort()
            return self.failed(fault, reply)
        except Exception:  # a fault of our own: nothing of it may go on behind the decision
            if relay is not None:
                relay.abort()
            reply.abort()
            raise
        return self._delivered(delivery)

    def stumbled(self, exc: Exception) -> Outcome:
        """A fault of the node's own: told like one of upstream's, by how much of the answer has left."""
        if self._left in (AnswerState.ENDING, AnswerState.ENDED):
            return self.end(Decision.ACK, "answered")
        kind = FaultKind.BROKEN if self._left is AnswerState.STARTED else FaultKind.PASSING
        message = f"The node itself failed ({type(exc).__name__})."
        return self.failed(UpstreamFault(kind, message, code="internal_error"), None)

    def expired(self) -> Outcome:
        """Older than TASK_TIMEOUT: no upstream call, an error is offered to whoever may still wait."""
        error = timeout_error(self._services.settings.task_timeout)
        return self.tell(Rejection("expired", Decision.ACK, error, 0))

    def tell(self, rejection: Rejection) -> Outcome:
        """The supervisor has decided: the client gets the error."""
        assert self.task is not None
        self._offer(self.task.endpoint, self.task.request_id, self.task.stream, rejection.error, None)
        return self.end(
            rejection.decision,
            rejection.status,
            error=rejection.error,
            end_reason=rejection.status,
            reason=rejection.reason,
        )

    def malformed(self, fault: MalformedTask) -> Outcome:
        """Not a task: dead-lettered, and its client told where that can be."""
        error = malformed_error(fault.reason)
        if fault.request_id and fault.endpoint:
            self._offer(fault.endpoint, fault.request_id, fault.stream, error, None)
        return self.end(
            Decision.DEAD_LETTER, "malformed", error=error, reason=fault.reason, request_id=fault.request_id
        )

    def failed(self, fault: UpstreamFault, reply: StreamReply | None) -> Outcome:
        """Upstream gave no answer that can be passed on (or only a part of one)."""
        task, job = self.task, self._job
        assert task is not None
        error = hide_secrets_in_body(fault.body, self._services.settings.secrets)
        if fault.kind is FaultKind.BROKEN:
            decision, status = Decision.ACK, "broken"
        elif fault.kind is FaultKind.CLIENT:
            decision, status = Decision.ACK, "refused"
        elif job.redeliveries >= self._services.settings.max_redeliveries:
            decision, status = Decision.ACK, "gave_up"
        elif time.monotonic() + self._services.settings.nak_delay >= job.deadline:
            decision, status = Decision.ACK, "expired"
            error = timeout_error(self._services.settings.task_timeout)
        else:
            if reply is not None:
                reply.release()
            return self.end(Decision.NAK, SENT_BACK[fault.kind], error=error, fault=fault)
        self._offer(task.endpoint, task.request_id, task.stream, error, reply)
        return self.end(decision, status, error=error, fault=fault)

    def _delivered(self, delivery: Delivery) -> Outcome:
        if delivery is Delivery.TAKEN:
            self._answered_at = time.monotonic()
            self._show(AnswerState.ENDED)
        return self.end(Decision.ACK, DELIVERED[delivery], well=True)

    # --- the parts ---

    def _show(self, state: AnswerState) -> None:
        self._left = state
        self._progress.show_answer_state(state)

    def _question(self, task: Task) -> Question:
        settings = self._services.settings
        model = settings.upstream_model or None
        body = for_upstream(task.data, stream=task.stream, model=model)
        bare = for_upstream(task.data, stream=True, model=model, ask_usage=False) if task.stream else None
        asked_for = task.data.get("model")
        own = model is not None or asked_for is None or asked_for == settings.model_name
        return Question(body, bare, task.request_id, self._job.deadline, own, wants_usage(task.data))

    def _reply(self, endpoint: Endpoint, request_id: str) -> StreamReply:
        return self._services.gateways.stream(
            endpoint, request_id, self._job.received_at, self._job.deadline, self._show
        )

    def _offer(
        self, endpoint: Endpoint, request_id: str, stream: bool, error: dict[str, Any], reply: StreamReply | None
    ) -> None:
        """Give the client an error instead of an answer, if it still waits."""
        self._answering_since = time.monotonic()
        raw = json.dumps(error, separators=(",", ":")).encode()
        if stream:
            reply = reply or self._reply(endpoint, request_id)
            try:
                delivery = reply.end(raw)
            except ClientGone:
                reply.abort()
                return
        else:
            delivery = self._services.gateways.post(endpoint, request_id, raw, self._job.deadline)
        if delivery is Delivery.TAKEN:
            self._answered_at = time.monotonic()

    def end(
        self,
        decision: Decision,
        status: str,
        *,
        error: dict[str, Any] | None = None,
        fault: UpstreamFault | None = None,
        well: bool = False,
        reason: str = "",
        request_id: str = "",
        end_reason: str | None = None,
    ) -> Outcome:
        """The one place where an outcome is made, and its record."""
        task, asked = self.task, self._asked
        request_id = task.request_id if task else request_id
        usage, source = _usage(asked)
        durations = self._durations()
        if log.isEnabledFor(logging.DEBUG):
            took = {f"{name}_ms": round(s * 1000, 1) for name, s in asdict(durations).items() if s is not None}
            about = {"request_id": request_id, "status": status, "attempt": asked.attempts}
            log.debug("stages of a task", extra={"event": "task_stages", **about, **took})
        return Outcome(
            number=self._job.number,
            request_id=request_id,
            decision=decision,
            status=status,
            record=record.encode(
                self._record(request_id, decision, status, usage, source, durations, error, fault, end_reason)
            ),
            fault=_fault_info(fault, self._services.settings.secrets),
            upstream_answered=well,
            reason=reason,
            attempts=asked.attempts,
            asked_at=asked.sent_at,
            stream=task.stream if task else False,
            prompt_tokens=_figure(usage, "prompt_tokens"),
            completion_tokens=_figure(usage, "completion_tokens"),
            durations=durations,
            client_error=error if decision is Decision.NAK and fault and fault.kind in NODE_KINDS else None,
        )

    def _record(
        self,
        request_id: str,
        decision: Decision,
        status: str,
        usage: dict[str, Any] | None,
        source: str,
        durations: Durations,
        error: dict[str, Any] | None,
        fault: UpstreamFault | None,
        end_reason: str | None,
    ) -> record.Record:
        task, job, asked, settings = self.task, self._job, self._asked, self._services.settings
        data = task.data if task else {}
        model = data.get("model")
        return record.Record(
            request_id=request_id,
            delivery=job.number,
            node=self._services.node,
            status=status,
            decision=decision,
            model=model if isinstance(model, str) else settings.model_name,
            upstream_model=asked.model or settings.upstream_model or None,
            ai_model_name=settings.aimodel_name or None,
            ai_model_namespace=settings.aimodel_namespace,
            usage=usage,
            usage_source=source,
            client=record.client_of(task.headers, data) if task else record.Client(),
            request=record.request_of(data, stream=task.stream, size=len(job.payload))
            if task
            else record.Request(bytes=len(job.payload)),
            times=self._times(),
            durations=durations,
            attempts=asked.attempts,
            redeliveries=job.redeliveries,
            end_reason=end_reason or asked.finish_reason or (redact(fault.code, settings.secrets) if fault else status),
            http_status=(fault.http_status if fault else asked.http_status) or None,
            error=record.error_of(error, upstream_status=fault.http_status if fault else 0),
        )

    def _times(self) -> record.Times:
        job, asked = self._job, self._asked

        def wall(moment: float | None) -> float | None:
            return None if moment is None else job.received + (moment - job.received_at)

        return record.Times(
            job.published,
            job.received,
            wall(asked.sent_at),
            wall(asked.first_at),
            wall(asked.done_at),
            wall(self._answered_at),
        )

    def _durations(self) -> Durations:
        job, asked, now = self._job, self._asked, time.monotonic()
        return Durations(
            queue=max(0.0, job.received - job.published),
            waiting=_between(job.received_at, asked.first_sent_at),
            first_token=_between(asked.sent_at, asked.first_at),
            upstream=_between(asked.sent_at, asked.done_at),
            answer=_between(self._answering_since, self._answered_at),
            total=now - job.received_at,
        )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


def _usage(asked: Asked) -> tuple[dict[str, Any] | None, str]:
    """What is billed, and where the figures come from (spec 6)."""
    if asked.usage is not None:
        return asked.usage, "upstream"
    if asked.text_chunks:
        return {"completion_tokens": asked.text_chunks}, "counted"
    return None, "none"


def _figure(usage: dict[str, Any] | None, name: str) -> int:
    value = (usage or {}).get(name)
    return value if isinstance(value, int) and 0 <= value < 10**9 else 0


def _fault_info(fault: UpstreamFault | None, secrets: Sequence[str]) -> FaultInfo | None:
    if fault is None:
        return None
    info = fault.info()
    code, message = redact(info.code, secrets), redact(info.message, secrets)
    return FaultInfo(info.kind, info.http_status, code, message, info.retry_after)
