"""One delivery of a task, from its bytes to its Outcome: the table of spec 4, top to bottom.

Every way through ends in an `End` (workernode/facts.py). Nothing leaves as an exception.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from workernode import relay
from workernode.body import UnsendableBody
from workernode.call_stats import CallStats
from workernode.chat_request import chat_request
from workernode.client_reply import ClientReply
from workernode.ends import ANSWER_STATUS, end_of_fault
from workernode.errors import (
    ClaimLost,
    ClientGone,
    GatewayConnectionLost,
    UpstreamFault,
    broken_error,
    malformed_error,
    timeout_error,
)
from workernode.facts import End, Facts
from workernode.gateway import AnswerResult, Gateways
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, Decision, FaultKind, Job, Kept, Outcome, Rejection
from workernode.settings import Settings
from workernode.stream_claim import StreamClaim
from workernode.task import MalformedTask, Task, parse
from workernode.token_estimate import TokenEstimator
from workernode.trace_context import trace_of
from workernode.undelivered import end_of
from workernode.upstream import ChatRequest, Upstream
from workernode.usage import lacks_usage, token_count

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What an attempt works with; shared by the tasks of a worker."""

    settings: Settings
    upstream: Upstream
    gateways: Gateways
    outcomes: OutcomeBuilder
    estimator: TokenEstimator | None = None  # None: TOKENIZER is not set


class Progress(relay.Progress, Protocol):
    """What the supervisor sees of an attempt while it runs, even if its process is killed."""

    def show_answer_state(self, state: AnswerState) -> None:
        """How much of the answer may have left; called before it leaves."""


def run(job: Job, services: Services, progress: Progress, claim: StreamClaim | None = None) -> Outcome:
    """Run the task and return how it ended.

    Args:
        claim: what a stream waits for before it may be sent; None: it may be.
    """
    attempt = _Attempt(job, services, progress, claim)
    end, ended_at = attempt.run(), time.monotonic()
    try:
        attempt.estimate_tokens()
        outcome = services.outcomes.build(end, attempt.facts, ended_at)
    except Exception:  # something in the task or in upstream's answer that a record cannot hold: a record without them
        attempt.log_internal_error()
        bare = End(end.status, end.decision, reason=end.reason)
        known = Facts(job, attempt.facts.request_id, trace=attempt.facts.trace)
        outcome = services.outcomes.build(bare, known, time.monotonic())
    kept = attempt.client.undelivered.kept(end, attempt.facts, time.monotonic())
    if log.isEnabledFor(logging.DEBUG):
        _log_durations(outcome)
    return outcome if kept is None else replace(outcome, kept=kept)


class _Attempt:
    """One delivery. Owned by one task, or thread."""

    def __init__(self, job: Job, services: Services, progress: Progress, claim: StreamClaim | None) -> None:
        asked = job.kept.asked if job.kept is not None else None
        if job.resume is not None:
            asked = job.resume.asked
        self.facts = Facts(job, asked=asked or CallStats(attempts=job.attempts))
        self.client = ClientReply(self.facts, services.gateways, progress.show_answer_state, claim)
        self._job = job
        self._services = services
        self._settings = services.settings
        self._progress = progress
        self._claim = claim
        self._plain_answer: bytes | None = None

    def estimate_tokens(self) -> None:
        """Estimate the tokens that are billed, if upstream has sent text without usage. The client has its answer."""
        estimator, facts = self._services.estimator, self.facts
        if estimator is None or facts.task is None:
            return
        plain = self._plain_answer if facts.asked.usage is None else None
        if plain is not None or lacks_usage(facts.asked):
            facts.estimate = estimator.estimate(facts.task.data, plain)

    def run(self) -> End:
        """Run the task; an internal error still yields a decision."""
        try:
            return self._run()
        except ClaimLost as lost:
            return self._taken_over(lost)
        except Exception as exc:
            self.log_internal_error()
            fault = exc
        try:
            return self._internal_error(fault)
        except ClaimLost as lost:
            return self._taken_over(lost)
        except Exception:
            self.log_internal_error()
            reason = f"the node itself failed ({type(fault).__name__}), and failed again as it sent the client's error"
            return End("poison", Decision.DEAD_LETTER, reason=reason)

    # --- the rows of spec 4 ---

    def _run(self) -> End:
        try:
            task = self.facts.task = parse(self._job.payload, self._settings.reply_hosts)
        except MalformedTask as fault:
            return self._malformed(fault)
        self.facts.request_id = task.request_id
        makes_spans = self._settings.exports_traces
        self.facts.trace = trace_of(task.headers, task.request_id, makes_spans=makes_spans)
        task = self._guarded(task)
        kept = self._job.kept
        if kept is None and self._job.rejection is not None:
            return self._rejected(task, self._job.rejection)
        if kept is None and time.monotonic() >= self._job.deadline:
            return self._expired(task)
        try:
            if kept is not None:
                return self._offer_again(task, kept)
            return self._stream(task) if task.stream else self._plain(task)
        except UnsendableBody as exc:
            return self._malformed(MalformedTask(str(exc), task.request_id, task.endpoint, task.stream))
        except ClientGone as gone:
            self.client.abort()
            return End("client_gone", Decision.ACK, end_reason=str(gone))
        except GatewayConnectionLost as lost:
            return self._connection_lost(lost)
        except UpstreamFault as fault:
            return self._failed(task, fault.without_traceback())

    def _guarded(self, task: Task) -> Task:
        """The task with the chat request that upstream gets; the record is about the client's own."""
        guards = self._settings.guards
        if guards is None:
            return task
        data, self.facts.changed = guards.apply(task.data)
        return replace(task, data=data)

    def _plain(self, task: Task) -> End:
        """stream=false: ask upstream, and POST the answer."""
        facts = self.facts
        raw = self._plain_answer = self._services.upstream.complete(self._chat_request(task), facts.asked)
        self._progress.count_tokens(token_count(facts.asked.usage, "completion_tokens"))
        facts.answering_since = time.monotonic()
        return self._answered(self.client.post(task.endpoint, task.request_id, raw))

    def _stream(self, task: Task) -> End:
        """stream=true: ask upstream, and pass on each chunk as it comes."""
        job, facts, services = self._job, self.facts, self._services
        if self._claim is not None and job.resume is None:
            self._claim.upstream_asked()
        request = self._chat_request(task)
        reply = self.client.open(task.endpoint, task.request_id)
        stream = relay.StreamRelay(
            task, self._settings, services.upstream, reply, facts.asked, job.deadline, self._progress
        )  # fmt: skip
        try:
            if job.resume is None:
                stream.run(request)
            else:
                stream.resume(job.resume, request)
            facts.answering_since = facts.asked.done_at
            result = self.client.end(task.endpoint, reply)
            stream.finish()
        except BaseException:
            stream.abort()
            raise
        return self._answered(result)

    def _offer_again(self, task: Task, kept: Kept) -> End:
        """The gateway has not got the answer yet: offer it again, without asking upstream."""
        if not kept.parts:
            self.client.undelivered.keep(task.endpoint, self._services.gateways.can_reach(task.endpoint))
            return End("gateway_unreachable", Decision.ACK)
        self.facts.answering_since = time.monotonic()
        if task.stream:
            reply = self.client.open(task.endpoint, task.request_id)
            reply.hold(kept.parts)
            result = self.client.end(task.endpoint, reply)
        else:
            self._plain_answer = None if kept.status else kept.parts[0]
            result = self.client.post(task.endpoint, task.request_id, kept.parts[0])
        return end_of(kept) if kept.status else self._answered(result)

    def _taken_over(self, lost: ClaimLost) -> End:
        """Another node answers the task, or may: nothing may leave here any more."""
        self.client.abort()
        return End("taken_over", Decision.NAK, reason=str(lost))

    def _answered(self, result: AnswerResult) -> End:
        """Upstream has answered; the answer reached the gateway, or could not."""
        if result is AnswerResult.TAKEN:
            self.client.show_state(AnswerState.ENDED)
        return End(ANSWER_STATUS[result], Decision.ACK, upstream_answered=True)

    def _connection_lost(self, lost: GatewayConnectionLost) -> End:
        """The connection to the gateway broke in the middle of a stream; upstream was stopped."""
        error = broken_error("the connection to the gateway broke.")
        self.client.end_after_break(error)
        return End("connection_lost", Decision.ACK, error, end_reason=str(lost))

    def _failed(self, task: Task, fault: UpstreamFault) -> End:
        """Upstream gave no answer that can be passed on, or only a part of one."""
        end = end_of_fault(fault, self._job, self._settings, time.monotonic())
        if end.decision is Decision.NAK:
            self.client.release()
        else:
            assert end.error is not None
            self.client.send_error(task.endpoint, task.request_id, task.stream, end.error)
        return end

    def _expired(self, task: Task) -> End:
        """The task is older than TASK_TIMEOUT: upstream is not asked, the client gets an error."""
        error = timeout_error(self._settings.task_timeout)
        return self._rejected(task, Rejection("expired", Decision.ACK, error, 0))

    def _rejected(self, task: Task, rejection: Rejection) -> End:
        """The supervisor has decided: the client gets this error, upstream is not asked (any more)."""
        self.facts.asked.http_status = rejection.http_status
        self.client.send_error(task.endpoint, task.request_id, task.stream, rejection.error)
        return End(
            rejection.status,
            rejection.decision,
            rejection.error,
            reason=rejection.reason,
            end_reason=rejection.status,
        )

    def _malformed(self, fault: MalformedTask) -> End:
        """The message is not a task: it is dead-lettered, and its client gets an error where it can be reached."""
        self.facts.request_id = fault.request_id
        error = malformed_error(fault.reason)
        if fault.request_id and fault.endpoint:
            self.client.send_error(fault.endpoint, fault.request_id, fault.stream, error)
        return End("malformed", Decision.DEAD_LETTER, error, reason=fault.reason)

    def _internal_error(self, exc: Exception) -> End:
        """The node itself failed: like a fault of upstream's, decided by how much of the answer has left."""
        self.client.abort()
        if self.client.answer_state in (AnswerState.ENDING, AnswerState.ENDED):
            return End("answered", Decision.ACK)
        assert self.facts.task is not None
        kind = FaultKind.BROKEN if self.client.answer_state is AnswerState.STARTED else FaultKind.PASSING
        message = f"The node itself failed ({type(exc).__name__})."
        return self._failed(self.facts.task, UpstreamFault(kind, message, code="internal_error"))

    # --- the parts ---

    def _chat_request(self, task: Task) -> ChatRequest:
        return chat_request(task, task.data, self._settings, self._job.deadline, self.facts.trace)

    def log_internal_error(self) -> None:
        """Log the exception that is handled at the moment."""
        about = {"event": "attempt_failed", "request_id": self.facts.request_id}
        log.exception("internal error while running the task", extra=about)


def _log_durations(outcome: Outcome) -> None:
    durations = {f"{name}_ms": round(s * 1000, 1) for name, s in asdict(outcome.durations).items() if s is not None}
    about = {"request_id": outcome.request_id, "status": outcome.status, "attempt": outcome.attempts}
    log.debug("durations of a task's stages", extra={"event": "task_stages", **about, **durations})
