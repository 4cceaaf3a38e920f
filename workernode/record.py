"""The billing record of one delivery (spec 6): what is known of it → bytes of JSON. Pure.

Every record has the same members; what is not known is null (docs/record.schema.json). Most of a record comes from the
client, so `encode` bounds all of it: whatever a task holds, its record is strict JSON of less than MAX_BYTES, without
prompt or answer text, keys, or a client's Authorization.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from workernode.prices import Cost
from workernode.protocol import Decision, Durations
from workernode.redaction import mask_keys
from workernode.strict_json import dumps

SCHEMA = "workernode.record/1"  # the number changes when a member is taken away or changes its meaning
MAX_BYTES = 16384  # far below the 5 MB of a Pulsar message, so that records that wait for the broker cost little memory

# Longest texts, in bytes of UTF-8. If all of them are as long as they can be, the record is still below MAX_BYTES.
MAX_TEXT = 256
MAX_MESSAGE = 500
MAX_USAGE_FIGURES = 40
MAX_NUMBER = 10**15  # larger figures are mistakes or attacks, and JSON readers disagree on integers beyond 2**53

# The members of a request that are recorded: figures, and names that the API lists.
_FIGURES = (
    *("max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed"),
    *("presence_penalty", "frequency_penalty", "top_logprobs"),
)
_NAMES = ("reasoning_effort", "service_tier")

# With these statuses upstream refuses the request itself, and its message may quote the request (vLLM repeats the whole
# input); an error inside a 200 may be of this kind as well. Such a message is not recorded.
QUOTING_STATUSES = (200, 400, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Node:
    """The node that served the task."""

    id: str  # unique to this run of the node: with the delivery's number it makes the idempotency key
    host: str
    type: str  # `remote` or `local`
    version: str
    worker: int | None = None  # number of the worker process; None: no worker took part


@dataclass(frozen=True, slots=True)
class Client:
    """The client, as far as the gateway passed it on."""

    user_agent: str | None = None
    address: str | None = None
    user: str | None = None  # `user` of the request: the client's own name for its user
    key_id: str | None = None  # tells clients apart by their keys, without holding any of a key


@dataclass(frozen=True, slots=True)
class Request:
    """The request: sizes and settings, no text."""

    stream: bool | None = None
    messages: int | None = None
    bytes: int | None = None  # of the whole task
    tools: int | None = None
    response_format: str | None = None
    settings: Mapping[str, int | float | str] = field(default_factory=dict)  # max_tokens, temperature, ...


@dataclass(frozen=True, slots=True)
class Times:
    """When things happened, in seconds since the epoch; None: it did not come to that."""

    published: float | None = None
    received: float | None = None
    upstream_sent: float | None = None  # the last time upstream was asked
    first_token: float | None = None
    upstream_done: float | None = None
    answered: float | None = None  # the gateway had the whole answer


@dataclass(frozen=True, slots=True)
class Error:
    """What went wrong; no text in it looks like a key. Made by `error_of`."""

    type: str | None
    code: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """What one record holds. The members without a default are always known, even if the worker died."""

    request_id: str  # "" where the message could not be read
    delivery: int  # the number of the job
    node: Node
    status: str  # a row of spec 4
    decision: Decision
    model: str | None = None  # the model asked for
    upstream_model: str | None = None  # the model that answered
    ai_model_name: str | None = None
    ai_model_namespace: str | None = None
    usage: Mapping[str, Any] | None = None  # as upstream sent it
    usage_source: str = "none"  # `upstream`, `counted` or `none`
    client: Client = Client()
    request: Request = Request()
    times: Times = Times()
    durations: Durations = field(default_factory=Durations)
    attempts: int = 0
    redeliveries: int = 0
    end_reason: str | None = None  # upstream's finish_reason, or why it ended without one
    http_status: int | None = None  # upstream's last; None or 0: no answer came
    error: Error | None = None
    cost: Cost | None = None  # by PRICES; None: no prices, no usage, or no price for the model


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
        user=str(user)[:MAX_TEXT] if isinstance(user, str) or _is_number(user) else None,
        key_id=_key_id(_header(headers, "Authorization"), salt),
    )


def _key_id(authorization: str, salt: str) -> str | None:
    """The first 16 hexadecimal digits of HMAC-SHA256: nobody without the salt can test whether a key belongs to it."""
    if not salt or not authorization:
        return None
    return hmac.digest(salt.encode(), authorization.encode("utf-8", "replace"), "sha256").hex()[:16]


def request_of(data: Mapping[str, Any], *, stream: bool, size: int) -> Request:
    """Return what is recorded of the request.

    Args:
        data: the client's chat request.
        stream: the gateway waits for a stream.
        size: bytes of the whole task.
    """
    settings: dict[str, int | float | str] = {}
    for name in _FIGURES:
        if (value := data.get(name)) is not None and _is_number(value):
            settings[name] = value
    for name in _NAMES:
        if (value := data.get(name)) is not None and (word := _word(value)):
            settings[name] = word
    form = data.get("response_format")
    return Request(
        stream=stream,
        messages=_length(data.get("messages")),
        bytes=size,
        tools=_length(data.get("tools")),
        response_format=_word(form.get("type")) if isinstance(form, dict) else None,
        settings=settings,
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
        type=_text(error.get("type")),
        code=_text(str(code) if _is_number(code) else code),
        message=message and mask_keys(message[: 2 * MAX_MESSAGE]),  # half a key would not be masked
    )


def encode(record: Record) -> bytes:
    """Return the record as JSON, valid against docs/record.schema.json."""
    node, client, request, times, durations = record.node, record.client, record.request, record.times, record.durations
    error, asked = record.error, request.settings
    request_id, node_id = _text(record.request_id), _text(node.id) or "unknown"
    members = {
        "schema": SCHEMA,
        "request_id": request_id,
        "attempt_id": f"{request_id or ''}/{node_id}/{record.delivery}",
        "usage": _usage(record.usage),
        "usage_source": record.usage_source,
        "cost": _cost(record.cost),
        "model": _text(record.model),
        "upstream_model": _text(record.upstream_model),
        "ai_model_name": _text(record.ai_model_name),
        "ai_model_namespace": _text(record.ai_model_namespace),
        "node": {
            "id": node_id,
            "host": _text(node.host),
            "type": _text(node.type),
            "version": _text(node.version),
            "worker": node.worker,
        },
        "client": {
            "user_agent": _text(client.user_agent),
            "address": _text(client.address),
            "user": _text(client.user),
            "key_id": client.key_id,
        },
        "request": {
            "stream": request.stream,
            "messages": request.messages,
            "bytes": request.bytes,
            "tools": request.tools,
            "response_format": _text(request.response_format),
            **{name: asked.get(name) for name in (*_FIGURES, *_NAMES)},
        },
        "timestamps": {
            "published": rfc3339(times.published),
            "received": rfc3339(times.received),
            "upstream_sent": rfc3339(times.upstream_sent),
            "first_token": rfc3339(times.first_token),
            "upstream_done": rfc3339(times.upstream_done),
            "answered": rfc3339(times.answered),
        },
        "durations_ms": {
            "queued": _milliseconds(durations.queue),
            "waiting": _milliseconds(durations.waiting),
            "upstream_first_token": _milliseconds(durations.first_token),
            "upstream": _milliseconds(durations.upstream),
            "answer": _milliseconds(durations.answer),
            "total": _milliseconds(durations.total),
        },
        "attempts": record.attempts,
        "redeliveries": record.redeliveries,
        "outcome": {
            "status": _text(record.status) or "unknown",
            "decision": record.decision.value,
            "end_reason": _text(record.end_reason, 64),
            "http_status": record.http_status or None,
            "error": error
            and {
                "type": _text(error.type, 100),
                "code": _text(error.code, 100),
                "message": _text(error.message, MAX_MESSAGE),
            },
        },
    }
    return dumps(members)


def rfc3339(seconds: float | None) -> str | None:
    """Return the moment as RFC 3339 in UTC with milliseconds; None for None and for a moment out of range."""
    if seconds is None or not 0 <= seconds < 253402300799:  # the year 10000; a NaN fails the comparison
        return None
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{_rfc3339_second(whole)}.{milliseconds:03}Z"


@lru_cache(maxsize=1024)  # formatting was half of a record's cost, and many records share the same seconds
def _rfc3339_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _milliseconds(seconds: float | None) -> float | None:
    if seconds is None or not seconds < MAX_NUMBER:  # a NaN fails the comparison
        return None
    return int(seconds * 10000 + 0.5) / 10 if seconds > 0 else 0.0  # two machines' clocks may make `queued` negative


def _text(value: object, most: int = MAX_TEXT) -> str | None:
    """The text, cut, with a blank for each character that is not printable (control characters, lone surrogates)."""
    if not isinstance(value, str) or not value:
        return None
    value = value[:most]
    if not value.isprintable():
        value = "".join(sign if sign.isprintable() else " " for sign in value)
    return value if value.isascii() else value.encode("utf-8")[:most].decode("utf-8", "ignore")


def _word(value: object) -> str | None:
    """A name such as `json_schema` or `low`; None for anything longer, which may be text of the client's."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", value) else None


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, list) else None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -MAX_NUMBER <= value <= MAX_NUMBER  # type: ignore[operator]


def _header(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name) or headers.get(name.lower())
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """The numbers of upstream's usage; the three that everybody bills by are always there."""
    kept: dict[str, Any] = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    room = MAX_USAGE_FIGURES
    for name, value in (usage or {}).items():
        if room <= 0:
            break
        if isinstance(value, dict):  # prompt_tokens_details and the like
            if _word_of_usage(name) and name not in kept:
                figures = {each: figure for each, figure in islice(value.items(), room) if _is_figure(each, figure)}
                room -= 1 + len(figures)
                kept[name] = figures
        elif _is_figure(name, value) and (name not in kept or value == int(value)):  # no half tokens
            room -= 1
            kept[name] = int(value) if name in kept else value
    return kept


def _cost(cost: Cost | None) -> dict[str, str] | None:
    """The amount as text, because not every JSON reader keeps all digits of a number."""
    if cost is None:
        return None
    return {"amount": f"{cost.amount.normalize():f}", "currency": cost.currency, "prices": cost.version}


def _word_of_usage(name: object) -> bool:
    return isinstance(name, str) and len(name) <= 48 and name.isascii() and name.isidentifier()


def _is_figure(name: object, value: object) -> bool:
    return _word_of_usage(name) and _is_number(value) and value >= 0  # type: ignore[operator]
