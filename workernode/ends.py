"""How upstream's fault, or the way of an answer to the gateway, ends a delivery: rows of the table in spec 4."""

from __future__ import annotations

from workernode.errors import UpstreamFault, timeout_error
from workernode.facts import End
from workernode.gateway import AnswerResult
from workernode.protocol import NODE_KINDS, Decision, FaultKind, Job
from workernode.redaction import hide_secrets_in_body
from workernode.settings import Settings

# The outcome's status of a task that goes back to the broker, by the kind of upstream's fault.
NAK_STATUS = {
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
# The outcome's status of a task that upstream answered, by how the answer reached the gateway.
ANSWER_STATUS = {
    AnswerResult.TAKEN: "answered",
    AnswerResult.CLIENT_GONE: "client_gone",
    AnswerResult.UNCONFIRMED: "unconfirmed",
    AnswerResult.UNREACHABLE: "gateway_unreachable",
    AnswerResult.FAILED: "gateway_unreachable",
    AnswerResult.REFUSED: "gateway_refused",
}


def end_of_fault(fault: UpstreamFault, job: Job, settings: Settings, now: float) -> End:
    """Decide a task whose fault outlived the worker's own retries.

    Args:
        now: monotonic seconds.
    """
    error = hide_secrets_in_body(fault.body, settings.secrets)
    if fault.kind is FaultKind.BROKEN:  # asking again would repeat text
        return End("broken", Decision.ACK, error, fault)
    if fault.kind is FaultKind.CLIENT:  # asking again cannot help
        return End("refused", Decision.ACK, error, fault)
    # For a fault that may be the node's, the supervisor decides which error the client gets (spec 5).
    is_used_up = job.redeliveries >= settings.max_redeliveries and not job.has_tries
    if is_used_up and fault.kind not in NODE_KINDS:
        return End("gave_up", Decision.ACK, error, fault)
    if now + settings.nak_delay >= job.deadline:  # no time for another delivery
        return End("expired", Decision.ACK, timeout_error(settings.task_timeout), fault)
    return End(NAK_STATUS[fault.kind], Decision.NAK, error, fault)
