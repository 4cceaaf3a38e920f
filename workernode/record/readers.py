"""What is recorded of a task's client, of its request, and of an error. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Any

from workernode.record.members import Client, Error, Request
from workernode.record.values import MAX_TEXT, as_name, clean_text, is_number
from workernode.redaction import mask_keys

MAX_MESSAGE = 500  # bytes of UTF-8

# The members of a request that are recorded: figures, and names that the API lists.
FIGURES = (
    *("max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed"),
    *("presence_penalty", "frequency_penalty", "top_logprobs"),
)
NAMES = ("reasoning_effort", "service_tier")

# With these statuses upstream refuses the request itself, and its message may quote the request (vLLM repeats the whole
# input); an error inside a 200 may be of this kind as well. Such a message is not recorded.
QUOTING_STATUSES = (200, 400, 413, 415, 422)


def client_of(headers: Mapping[str, Any], data: Mapping[str, Any], salt: str) -> Client:
    """Return what is recorded of the client.

    Args:
        headers: the client's HTTP headers as the gateway passed them on: a list of values by canonical name.
        data: the client's chat request.
        salt: RECORD_SALT; "": the clients' keys leave no trace.
    """
    forwarded = _header(headers, "X-Forwarded-For") or _header(headers, "X-Real-Ip")
    address = forwarded[:MAX_TEXT].split(",")[0].strip()  # the first is the client's, the others are proxies
    user = data.get("user")
    return Client(
        user_agent=_header(headers, "User-Agent")[:MAX_TEXT],
        address=address if re.fullmatch(r"[0-9A-Fa-f:.\[\]]{2,64}", address) else None,
        user=str(user)[:MAX_TEXT] if isinstance(user, str) or is_number(user) else None,
        key_id=_key_id(_header(headers, "Authorization"), salt),
    )


def _key_id(authorization: str, salt: str) -> str | None:
    """The first 16 hexadecimal digits of HMAC-SHA256: nobody without the salt can test whether a key belongs to it."""
    if not salt or not authorization:
        return None
    return hmac.digest(salt.encode(), authorization.encode("utf-8", "replace"), "sha256").hex()[:16]


def request_of(data: Mapping[str, Any], *, stream: bool, size: int, changed: tuple[str, ...] = ()) -> Request:
    """Return what is recorded of the request.

    Args:
        data: the client's chat request.
        stream: the gateway waits for a stream.
        size: bytes of the whole task.
        changed: what the operator's guards changed in it, dotted names.
    """
    settings: dict[str, int | float | str] = {}
    for name in FIGURES:
        if (value := data.get(name)) is not None and is_number(value):
            settings[name] = value
    for name in NAMES:
        if (value := data.get(name)) is not None and (word := as_name(value)):
            settings[name] = word
    form = data.get("response_format")
    return Request(
        stream=stream,
        messages=_length(data.get("messages")),
        bytes=size,
        tools=_length(data.get("tools")),
        response_format=as_name(form.get("type")) if isinstance(form, dict) else None,
        settings=settings,
        changed=changed,
    )


def error_of(body: Mapping[str, Any] | None, *, upstream_status: int = 0) -> Error | None:
    """Return what is recorded of an OpenAI error body.

    Args:
        body: {"error": {...}}; None is returned for anything else.
        upstream_status: the HTTP status that it came with; 0 for an error that the node made.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return None
    code, message = error.get("code"), error.get("message")
    if not isinstance(message, str) or upstream_status in QUOTING_STATUSES:
        message = None
    return Error(
        type=clean_text(error.get("type")),
        code=clean_text(str(code) if is_number(code) else code),
        message=message and mask_keys(message[: 2 * MAX_MESSAGE]),  # half a key would not be masked
    )


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, list) else None


def _header(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name) or headers.get(name.lower())
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""
