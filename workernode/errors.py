"""The taxonomy: the one place that turns a status, a body or an exception into a kind, and into OpenAI's error shape.
Pure.

    UpstreamFault            upstream did not give an answer that can be passed on
      .kind CLIENT           the request itself: its client is told, asking again cannot help
            PASSING          asking again may help
            RATE_LIMIT RAMP  asking again later may help; the whole node waits
            QUOTA KEY MODEL  asking again cannot help until a person acts; another node may serve
            BROKEN           a part of the answer has left: asking again would repeat text
    ClientGone               nobody waits for the answer any more

Sources: developers.openai.com/docs/guides/error-codes; openai-python `src/openai/_base_client.py` for what is worth
asking again and for `x-should-retry`. Judged by status, `error.type` and `error.code`, never by words in a message
(spec 5).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workernode.protocol import FaultInfo, FaultKind

# error.code or error.type of a 429 (or 402) that only money or a person mends.
QUOTA_CODES = {"insufficient_quota", "credit_balance_exhausted"}
QUOTA_ENDS = ("_spend_limit_exceeded", "_usage_limit_exceeded")
QUOTA_STARTS = ("billing_",)
RAMP_CODES = {"slow_down"}
RATE_CODES = {"rate_limit_exceeded", "requests", "tokens", "rate_limit_error"}
KEY_CODES = {"invalid_api_key", "authentication_error", "permission_error", "invalid_authentication"}
# A 403 with one of these is about what the client said, not about the node's key.
POLICY_CODES = {"content_policy_violation", "content_filter", "moderation_blocked", "cyber_policy_violation"}
CLIENT_CODES = {"invalid_request_error", "context_length_exceeded", "invalid_prompt", "image_parse_error"}

MAX_MESSAGE = 500  # characters of somebody else's message that are passed to people

# The worker itself may ask again.
STILL_BUSY = (FaultKind.PASSING, FaultKind.UNAVAILABLE, FaultKind.RATE_LIMIT, FaultKind.RAMP)


class UpstreamFault(Exception):
    """Upstream did not answer with something that can be passed on.

    Attributes: kind; http_status (0: no answer came); body (the OpenAI error object for the client, upstream's own
    where it sent one); retry_after (seconds, or None); code (for people and metrics).
    """

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        http_status: int = 0,
        body: dict[str, Any] | None = None,
        code: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.http_status = http_status
        self.code = code or kind.value
        self.body = body if body and _is_json(body) else openai_error(message, "upstream_error", code or None)
        self.retry_after = retry_after

    def info(self) -> FaultInfo:
        """Return what the supervisor is told of it."""
        return FaultInfo(self.kind, self.http_status, self.code[:100], self.message[:MAX_MESSAGE], self.retry_after)


class ClientGone(Exception):
    """Nobody waits for this answer any more: the gateway says so, or answers no ping."""


class GatewayConnectionLost(Exception):
    """The connection to the gateway broke in the middle of a stream. That says nothing of the client, who may wait."""


def openai_error(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error body in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def timeout_error(seconds: float) -> dict[str, Any]:
    """Return the error for a task that nobody had time for (spec 4, "older than TASK_TIMEOUT")."""
    return openai_error(
        f"The request was not answered within {seconds:g} seconds. Please try again.", "timeout", "timeout"
    )


def malformed_error(reason: str) -> dict[str, Any]:
    """Return the error for a message that is not a task."""
    return openai_error(f"The request could not be read: {reason}.", "invalid_request_error", "malformed_task")


def broken_error(message: str) -> dict[str, Any]:
    """Return the error that ends a stream of which the client has seen a part."""
    return openai_error(f"The answer was cut off: {message}", "upstream_error", "stream_interrupted")


def unfit_error(trouble: FaultInfo) -> dict[str, Any]:
    """Return the error for a task that no node could serve, because a person has to act first (spec 5)."""
    if trouble.kind in (FaultKind.MODEL, FaultKind.ADDRESS):
        return openai_error(
            "The model does not exist or cannot be reached.", "invalid_request_error", "model_not_found", "model"
        )
    why = {
        FaultKind.KEY: "its provider refuses the credentials",
        FaultKind.QUOTA: "its provider's quota is used up",
        FaultKind.CERTIFICATE: "its provider cannot be reached over a trusted connection",
        FaultKind.REFUSED: "its provider refuses the node's requests",
        FaultKind.UNAVAILABLE: "its provider is not available",
    }
    text = why.get(trouble.kind, "its provider's rate limit does not lift")
    return openai_error(f"The model cannot be served at the moment: {text}.", "server_error", "model_unavailable")


def of_response(status: int, headers: Mapping[str, str], raw: bytes, *, own_model: bool) -> UpstreamFault:
    """Return the fault that an answer with this status is.

    Args:
        status: HTTP status, not 200.
        headers: by lower-case name.
        raw: the body.
        own_model: the model asked for is the node's own, so that a model that is not found is the node's fault.
    """
    body = _error_body(raw)
    code, kind_name = _names(body)
    kind = _kind_of(status, code, kind_name, own_model)
    again = (headers.get("x-should-retry") or "").strip().lower()
    if again == "true" and kind is FaultKind.CLIENT:
        kind = FaultKind.PASSING
    elif again == "false" and kind is FaultKind.PASSING:
        kind = FaultKind.CLIENT
    message = _message(body) if body else _describe(status, headers)
    if body is None and kind is FaultKind.CLIENT and 300 <= status < 400:
        message += "; redirects are not followed: set API_URL to the address that answers"
    return UpstreamFault(kind, message, http_status=status, body=body, code=code or kind_name)


def of_error_object(error: Mapping[str, Any], *, own_model: bool) -> UpstreamFault:
    """Return the fault that an error inside a 200 is: `{"error": {...}}` instead of an answer or of a chunk."""
    body = {"error": dict(error)}
    code, kind_name = _names(body)
    number = error.get("code")
    status = number if isinstance(number, int) and 400 <= number < 600 else 200
    kind = _kind_of(status, code, kind_name, own_model)
    if status == 200:
        kind = _kind_by_name(code, kind_name, own_model) or FaultKind.PASSING
    return UpstreamFault(kind, _message(body), http_status=200, body=body, code=code or kind_name)


def of_bad_answer(why: str, status: int = 200) -> UpstreamFault:
    """Return the fault that an answer is which cannot be passed on: HTML, half a JSON, too large."""
    return UpstreamFault(
        FaultKind.PASSING, f"The upstream's answer cannot be used: {why}.", http_status=status, code="bad_answer"
    )


def of_exception(exc: Exception) -> UpstreamFault:
    """Return the fault that a failed connection is. Its text names the kind of failure and never the address or key."""
    if isinstance(exc, UpstreamFault):
        return exc
    if isinstance(exc, TimeoutError):
        return UpstreamFault(
            FaultKind.PASSING, f"The upstream did not answer in time ({exc}).", code="upstream_timeout"
        )
    words = {
        "ConnectionRefusedError": "it refuses the connection",
        "ConnectionResetError": "it reset the connection",
        "BrokenPipeError": "it closed the connection",
        "RemoteDisconnected": "it closed the connection without an answer",
        "IncompleteRead": "it closed the connection in the middle of its answer",
        "gaierror": "its name cannot be resolved",
        "SSLCertVerificationError": "its TLS certificate is not valid",
    }
    why = words.get(type(exc).__name__, f"{type(exc).__name__}: {exc}"[:200])
    return UpstreamFault(
        FaultKind.PASSING, f"The upstream cannot be reached or broke off: {why}.", code="upstream_unreachable"
    )


def _is_json(body: dict[str, Any]) -> bool:
    """False if it holds what json can read but not write: NaN, 1e999, or nesting at the limit."""
    try:
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _error_body(raw: bytes) -> dict[str, Any] | None:
    """The body, if it has OpenAI's error shape."""
    try:
        body = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return body
    return None


def _names(body: dict[str, Any] | None) -> tuple[str, str]:
    error = body["error"] if body else {}
    code, kind = error.get("code"), error.get("type")
    return (code if isinstance(code, str) else "", kind if isinstance(kind, str) else "")


def _message(body: dict[str, Any]) -> str:
    message = body["error"].get("message")
    return (
        message[:MAX_MESSAGE]
        if isinstance(message, str) and message
        else "The upstream gave an error without a message."
    )


def _describe(status: int, headers: Mapping[str, str]) -> str:
    kind = (headers.get("content-type") or "no content type").split(";")[0][:60]
    return f"The upstream answered with status {status} and {kind} instead of an OpenAI error"


def _is_quota(name: str) -> bool:
    return name in QUOTA_CODES or name.endswith(QUOTA_ENDS) or name.startswith(QUOTA_STARTS)


def _kind_by_name(code: str, kind: str, own_model: bool) -> FaultKind | None:
    names = (code, kind)
    if any(map(_is_quota, names)):
        return FaultKind.QUOTA
    if code == "model_not_found":
        return FaultKind.MODEL if own_model else FaultKind.CLIENT
    if POLICY_CODES.intersection(names):
        return FaultKind.CLIENT
    if KEY_CODES.intersection(names):
        return FaultKind.KEY
    if RAMP_CODES.intersection(names):
        return FaultKind.RAMP
    if RATE_CODES.intersection(names):
        return FaultKind.RATE_LIMIT
    return FaultKind.CLIENT if CLIENT_CODES.intersection(names) else None


def _kind_of(status: int, code: str, kind: str, own_model: bool) -> FaultKind:
    """Status first; the names only where the status leaves several kinds open."""
    named = _kind_by_name(code, kind, own_model)
    if status == 401:
        return FaultKind.KEY
    if status == 402:
        return FaultKind.QUOTA
    if status == 403:  # mostly the key; but a client can ask for a model, or for something, that no key may have
        about_request = code == "model_not_found" or bool(POLICY_CODES.intersection((code, kind)))
        return named if named is FaultKind.QUOTA or (named and about_request) else FaultKind.KEY
    if status == 404:
        return named if named is FaultKind.MODEL else FaultKind.CLIENT
    if status == 429:
        return named if named in (FaultKind.QUOTA, FaultKind.RAMP) else FaultKind.RATE_LIMIT
    if status in (408, 409, 425) or status >= 500 or status < 300:
        return FaultKind.PASSING
    return FaultKind.CLIENT
