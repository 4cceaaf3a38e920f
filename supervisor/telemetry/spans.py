"""A delivery that ended → the spans of its trace, from its record. Pure.

    process model-X            from publishing to the decision; the span of the client is its parent
        queue wait             from publishing to taking it
        slot wait              from taking it to asking upstream
        retries                from asking upstream first to asking it last, where it was asked more than once
        chat M                 from asking upstream to its last byte; upstream gets this span as its parent
        answer                 until the gateway has the whole answer

Names and attributes are those of OpenTelemetry's conventions for GenAI and for messaging. Nothing of a prompt or an
answer is in a record, so nothing of them is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import msgspec

from workernode.protocol import Outcome
from workernode.trace_context import TraceContext

Attributes: TypeAlias = dict[str, Any]

# Of the requests that a record keeps: their names in the conventions.
REQUEST_ATTRIBUTES = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "n": "gen_ai.request.choice.count",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}


class Ended(NamedTuple):
    """What goes to the telemetry process of a delivery that was decided."""

    record: bytes
    trace: TraceContext
    request_id: str
    status: str
    decision: str
    attempts: int
    stream: bool
    upstream_answered: bool
    error: str  # what went wrong upstream; "": nothing

    @classmethod
    def of(cls, outcome: Outcome, trace: TraceContext) -> Ended:
        """Return the message about an outcome."""
        fault = outcome.fault
        return cls(
            outcome.record, trace, outcome.request_id, outcome.status, outcome.decision.value, outcome.attempts,
            outcome.stream, outcome.upstream_answered,
            "" if fault is None else fault.code or str(fault.http_status or fault.kind.value),
        )  # fmt: skip


FINE = ("answered", "client_gone")  # statuses that are no error


class Kind(Enum):
    """A span's kind (OTLP)."""

    INTERNAL = "internal"
    CLIENT = "client"
    CONSUMER = "consumer"


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Moments are nanoseconds since the epoch."""

    name: str
    start: int
    end: int
    id: str  # 16 hexadecimal digits
    parent: str = ""  # the id of the span that it belongs to; "": none
    kind: Kind = Kind.INTERNAL
    attributes: Attributes = field(default_factory=dict)
    error: str = ""  # error.type; "": no error
    first_chunk: int | None = None  # when the first chunk came


class _Timestamps(msgspec.Struct):
    received: datetime | None = None
    upstream_sent: datetime | None = None
    answered: datetime | None = None


class _Durations(msgspec.Struct):
    """In milliseconds."""

    queued: float | None = None
    waiting: float | None = None
    upstream_first_token: float | None = None
    upstream: float | None = None
    answer: float | None = None
    total: float | None = None


class _Outcome(msgspec.Struct):
    end_reason: str | None = None
    http_status: int | None = None


class Facts(msgspec.Struct):
    """What spans and metrics need of a record (docs/record.schema.json)."""

    timestamps: _Timestamps
    durations_ms: _Durations
    outcome: _Outcome
    request: dict[str, Any]
    usage: dict[str, Any]
    model: str | None = None
    upstream_model: str | None = None
    redeliveries: int = 0


read_record = msgspec.json.Decoder(Facts).decode


@dataclass(frozen=True, slots=True)
class Names:
    """What all spans of a node have in common."""

    topic: str  # short, such as model-X
    upstream_model: str = ""  # UPSTREAM_MODEL
    server: Attributes = field(default_factory=dict)  # server.address and server.port of upstream


def request_model(names: Names, facts: Facts) -> str:
    """Return the model that upstream was asked for."""
    return names.upstream_model or facts.model or ""


def spans_of(ended: Ended, facts: Facts, names: Names, new_id: Callable[[], str]) -> list[Span]:
    """Return the spans of a delivery, the root first; none where it is not known when the message was taken.

    Args:
        facts: the record, read.
        new_id: makes span ids.
    """
    took, received = facts.durations_ms, _ns(facts.timestamps.received)
    if received is None:
        return []
    end = _later(received, took.total)
    published = received - _length(took.queued)
    about: Attributes = {
        "messaging.system": "pulsar",
        "messaging.destination.name": names.topic,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "workernode.request_id": ended.request_id,
        "workernode.status": ended.status,
        "workernode.decision": ended.decision,
        "workernode.attempts": ended.attempts,
        "workernode.redeliveries": facts.redeliveries,
    }
    error = "" if ended.status in FINE else ended.error or ended.status
    root = Span(
        f"process {names.topic}", published, end, new_id(), ended.trace.parent_id, Kind.CONSUMER, about, error,
    )  # fmt: skip
    spans = [root]
    if took.queued:
        spans.append(Span("queue wait", published, received, new_id(), root.id))
    spans += _upstream_spans(ended, facts, names, new_id, root, received)
    answered = _ns(facts.timestamps.answered)
    if answered is not None and took.answer is not None:
        spans.append(Span("answer", answered - _length(took.answer), answered, new_id(), root.id))
    return spans


def _upstream_spans(
    ended: Ended, facts: Facts, names: Names, new_id: Callable[[], str], root: Span, received: int
) -> Iterator[Span]:
    """The waits before upstream was asked, and the call."""
    took, sent = facts.durations_ms, _ns(facts.timestamps.upstream_sent)
    if sent is None:
        return
    first_sent = _later(received, took.waiting)
    yield Span("slot wait", received, first_sent, new_id(), root.id)
    if ended.attempts > 1 and sent > first_sent:
        yield Span("retries", first_sent, sent, new_id(), root.id)
    else:
        sent = first_sent  # the same moment, finer than the record's timestamp
    end = root.end if took.upstream is None else _later(sent, took.upstream)
    first = took.upstream_first_token
    model = request_model(names, facts)
    yield Span(
        f"chat {model}", sent, max(sent, end), ended.trace.span_id, root.id, Kind.CLIENT,
        dict(_chat_attributes(ended, facts, names, model)), ended.error,
        None if first is None else _later(sent, first),
    )  # fmt: skip


def _chat_attributes(ended: Ended, facts: Facts, names: Names, model: str) -> Iterator[tuple[str, Any]]:
    yield "gen_ai.operation.name", "chat"
    yield "gen_ai.provider.name", "openai"  # the conventions' name for any API that is spoken to like OpenAI's
    yield "gen_ai.request.model", model
    yield from names.server.items()
    for name, attribute in REQUEST_ATTRIBUTES.items():
        if (value := facts.request.get(name)) is not None:
            yield attribute, value
    if ended.stream:
        yield "gen_ai.request.stream", True
        if (first := facts.durations_ms.upstream_first_token) is not None:
            yield "gen_ai.response.time_to_first_chunk", first / 1000
    if facts.outcome.http_status:
        yield "http.response.status_code", facts.outcome.http_status
    if ended.upstream_answered:
        yield "gen_ai.response.model", facts.upstream_model or model
        if facts.outcome.end_reason:
            yield "gen_ai.response.finish_reasons", (facts.outcome.end_reason,)
    for name, attribute in (
        ("prompt_tokens", "gen_ai.usage.input_tokens"),
        ("completion_tokens", "gen_ai.usage.output_tokens"),
    ):
        if (value := facts.usage.get(name)) is not None:
            yield attribute, value
    cached = _member(facts.usage.get("prompt_tokens_details"), "cached_tokens")
    if cached is not None:
        yield "gen_ai.usage.cache_read.input_tokens", cached


def _member(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _ns(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000) * 1_000_000


def _length(milliseconds: float | None) -> int:
    return round((milliseconds or 0.0) * 1_000_000)


def _later(moment: int, milliseconds: float | None) -> int:
    return moment + _length(milliseconds)
