"""Why upstream gave no answer: status, body or exception → UpstreamFault with its kind. Pure.

Sources: developers.openai.com/docs/guides/error-codes; openai-python `src/openai/_base_client.py` for what is worth
asking again and for `x-should-retry`; workernode/upstream/dialects/ for what other providers call things.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping

from workernode.errors import BAD_ANSWER, MAX_MESSAGE, UpstreamFault
from workernode.net.errors import ConnectTimeout, Silence
from workernode.protocol import FaultKind
from workernode.upstream.dialects import ErrorBody, read_error

# Statuses of an upstream that is away, overloaded or starting: 498 is Groq's, 52x and 530 are Cloudflare's, 529 is
# Anthropic's.
UNAVAILABLE_STATUS = (498, 502, 503, 521, 522, 523, 525, 526, 529, 530)
# 4xx that may pass by themselves: request timeout, conflict, too early, failed dependency (Hugging Face TGI), client
# closed request (nginx).
PASSING_STATUS = (408, 409, 424, 425, 499)
# Too large, whatever it is called: Groq and GitHub Models name the rate limit that the request alone exceeds.
TOO_LARGE_STATUS = (413, 414)
# No chat API answers like this: not found, method not allowed, gone, not implemented, HTTP version.
NO_API_STATUS = (404, 405, 410, 501, 505)
RETRYABLE = (FaultKind.PASSING, FaultKind.UNAVAILABLE)
CONNECTION_FAULTS = {
    "ConnectionRefusedError": "it refuses the connection",
    "ConnectionResetError": "it reset the connection",
    "BrokenPipeError": "it closed the connection",
    "RemoteDisconnected": "it closed the connection without an answer",
    "IncompleteRead": "it closed the connection in the middle of its answer",
    "ConnectTimeout": "it does not accept the connection in time",
    "gaierror": "its name cannot be resolved",
}
# Exceptions of an upstream that has read nothing of the request.
AWAY = ("ConnectionRefusedError", "ConnectTimeout", "gaierror")
AWAY_ERRNO = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")  # `reason` of an ssl.SSLError


def fault_of_response(status: int, headers: Mapping[str, str], raw: bytes, *, is_own_model: bool) -> UpstreamFault:
    """Return the fault that a refusal is.

    Args:
        status: HTTP status, none of 2xx.
        headers: by lower-case name.
        raw: the body.
        is_own_model: the task asks for the node's own model, so that a model that upstream does not know is the node's
            fault.
    """
    is_html = _is_html(headers, raw)
    error = None if is_html else _read_body(headers, raw)
    kind = _kind_of(status, error, is_own_model)
    again = (headers.get("x-should-retry") or "").strip().lower()
    if again == "true" and kind is FaultKind.CLIENT:
        kind = FaultKind.PASSING
    elif again == "false" and kind in RETRYABLE:
        kind = FaultKind.CLIENT
    if error is not None:
        return UpstreamFault(kind, error.message[:MAX_MESSAGE], http_status=status, body=error.body, code=error.code)
    if status == 407:  # no server may answer so, only a proxy (RFC 9110, 15.5.8)
        return _fault_of_proxy(status)
    message = _describe(status, headers)
    if 300 <= status < 400:
        message += "; redirects are not followed: set API_URL to the address that answers"
    return UpstreamFault(kind, message, http_status=status)


def fault_of_error(error: ErrorBody, *, is_own_model: bool) -> UpstreamFault:
    """Return the fault that an error inside a 2xx is: in the place of the answer, or of a chunk."""
    if error.status:
        kind = _kind_of(error.status, error, is_own_model)
    else:
        kind = _named(error, is_own_model) or FaultKind.PASSING
        if kind is FaultKind.PASSING and error.blames_request:
            kind = FaultKind.CLIENT
    return UpstreamFault(kind, error.message[:MAX_MESSAGE], http_status=200, body=error.body, code=error.code)


def fault_of_bad_answer(why: str, raw: bytes = b"", status: int = 200) -> UpstreamFault:
    """Return the fault that an answer is which cannot be passed on: half a JSON, no completion.

    Args:
        raw: the answer as far as it came. A page of HTML means that there is no API at API_URL.
    """
    kind = FaultKind.ADDRESS if _starts_like_html(raw) else FaultKind.PASSING
    why = "it is a page of HTML" if kind is FaultKind.ADDRESS else why
    return UpstreamFault(kind, f"The upstream's answer cannot be used: {why}.", http_status=status, code=BAD_ANSWER)


def describe_failure(exc: Exception) -> str:
    """Return why a connection failed, in plain words, with "it" for the server; never an address or a key."""
    name = type(exc).__name__
    if name in CONNECTION_FAULTS:
        return CONNECTION_FAULTS[name]
    if name.startswith("SSL"):
        return f"TLS with it failed ({getattr(exc, 'reason', None) or 'no reason is known'})"
    text = getattr(exc, "strerror", None) or str(exc) or "the connection failed and no reason is known"
    return " ".join(str(text).split())[:200]


def fault_of_exception(exc: Exception) -> UpstreamFault:
    """Return the fault that a failed connection is. Its text names the failure, never the address or the key."""
    if isinstance(exc, UpstreamFault):
        return exc
    name = type(exc).__name__  # by name: this module must not import ssl, socket or http.client
    if name == "SSLCertVerificationError":
        message = "The upstream's TLS certificate is not valid or not trusted."
        return UpstreamFault(FaultKind.CERTIFICATE, message, code="certificate_not_trusted")
    if getattr(exc, "reason", "") in NO_TLS:
        return UpstreamFault(FaultKind.ADDRESS, "The upstream does not speak TLS at this address.", code="no_tls")
    if isinstance(exc, Silence):
        message = f"The upstream was {exc} in the middle of its answer (READ_TIMEOUT)."
        return UpstreamFault(FaultKind.PASSING, message, code="upstream_timeout")
    if isinstance(exc, TimeoutError) and not isinstance(exc, ConnectTimeout):
        message = "The upstream did not answer within the task's time."
        return UpstreamFault(FaultKind.PASSING, message, code="upstream_timeout")
    if name == "ProxyRefused":
        return _fault_of_proxy(getattr(exc, "status", 0))
    is_away = name in AWAY or getattr(exc, "errno", None) in AWAY_ERRNO
    return UpstreamFault(
        FaultKind.UNAVAILABLE if is_away else FaultKind.PASSING,
        f"The upstream cannot be reached or broke off: {describe_failure(exc)}.",
        code="upstream_unreachable",
    )


def _fault_of_proxy(status: int) -> UpstreamFault:
    kind = FaultKind.REFUSED if status in (401, 403, 407) else FaultKind.UNAVAILABLE
    message = f"The proxy in front of the upstream answered with status {status}."
    return UpstreamFault(kind, message, http_status=status, code="proxy_refused")


def _kind_of(status: int, error: ErrorBody | None, is_own_model: bool) -> FaultKind:
    """Return the kind of a refusal: by the status where it leaves one kind only, else by the names in the error."""
    named = _named(error, is_own_model) if error is not None else None
    if status == 429:
        is_other = named in (FaultKind.QUOTA, FaultKind.RAMP, FaultKind.UNAVAILABLE)
        return named if named is not None and is_other else FaultKind.RATE_LIMIT
    if 300 <= status < 400:
        return FaultKind.ADDRESS
    if status in TOO_LARGE_STATUS:
        return FaultKind.CLIENT
    if status in NO_API_STATUS:
        return named or _no_api(status, error, is_own_model)
    if status in UNAVAILABLE_STATUS:
        return named if named in (FaultKind.QUOTA, FaultKind.KEY, FaultKind.MODEL) else FaultKind.UNAVAILABLE
    if status >= 500 or status < 300 or status in PASSING_STATUS:
        return named if named in (FaultKind.QUOTA, FaultKind.UNAVAILABLE) else FaultKind.PASSING
    if status in (401, 402, 403, 407):
        return named or {401: FaultKind.KEY, 402: FaultKind.QUOTA}.get(status, FaultKind.REFUSED)
    if named is not None:
        return named
    # A plain text or a page with status 400 comes from something that is no chat API: a web server that got HTTP on its
    # HTTPS port, a firewall. 413, 414, 422 and the like are about the request, whoever answers so.
    return FaultKind.ADDRESS if status == 400 and error is None else FaultKind.CLIENT


def _no_api(status: int, error: ErrorBody | None, is_own_model: bool) -> FaultKind:
    """A 404 without a known name: an OpenAI error means an unknown model, anything else means that no API is there."""
    if status in (404, 410) and error is not None and error.is_openai:
        return FaultKind.MODEL if is_own_model else FaultKind.CLIENT
    return FaultKind.ADDRESS


def _named(error: ErrorBody, is_own_model: bool) -> FaultKind | None:
    named = error.named_kind
    return FaultKind.CLIENT if named is FaultKind.MODEL and not is_own_model else named


def _read_body(headers: Mapping[str, str], raw: bytes) -> ErrorBody | None:
    """The error in a body: JSON of any shape, or a short plain text (Hugging Face TGI, axum)."""
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    try:
        return read_error(json.loads(text))  # lenient: a NaN in it does not matter
    except (ValueError, RecursionError):
        is_text = (headers.get("content-type") or "").lower().startswith("text/plain")
        return read_error(text.strip()) if is_text and len(text) <= MAX_MESSAGE and text.strip().isprintable() else None


def _is_html(headers: Mapping[str, str], raw: bytes) -> bool:
    return _starts_like_html(raw) or ("html" in (headers.get("content-type") or "").lower() and raw[:1] != b"{")


def _starts_like_html(raw: bytes) -> bool:
    return raw[:200].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _describe(status: int, headers: Mapping[str, str]) -> str:
    kind = (headers.get("content-type") or "no content type").split(";")[0][:60]
    return f"The upstream answered with status {status} and {kind} instead of an OpenAI error"
