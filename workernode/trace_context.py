"""W3C trace context: a client's headers → the trace of a task, and the headers for upstream. Pure.

The rules are those of www.w3.org/TR/trace-context-2: what breaks them is ignored, and a new trace begins.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = r"[a-z0-9][a-z0-9_*/@-]{0,255}"
_MEMBER = re.compile(rf"({_KEY})=([ -+\--<>-~]{{0,255}}[!-+\--<>-~])")  # printable ASCII without comma and equals sign
_REQUEST_ID = re.compile(r"[!-~]{1,256}")
MOST_MEMBERS = 32  # of a tracestate
MOST_CHARACTERS = 512  # of a tracestate that is passed on: what everybody must be able to pass on
LONG_MEMBER = 128  # characters: where a tracestate is too long, longer members go first
SAMPLED, RANDOM = 0x01, 0x02  # the flags that the standard has
NAMES = ("traceparent", "tracestate", "x-request-id")


class TraceContext(NamedTuple):
    """Where a task belongs in a trace."""

    trace_id: str  # 32 hexadecimal digits
    parent_id: str = ""  # the client's span, 16 digits; "": the trace begins here
    span_id: str = ""  # the node's own span that asks upstream; "": the node makes no spans
    flags: int = 0
    state: str = ""  # tracestate
    request_id: str = ""  # X-Request-Id

    @property
    def is_sampled(self) -> bool:
        """True if the spans of the trace are to be kept."""
        return bool(self.flags & SAMPLED)

    def headers(self) -> dict[str, str]:
        """Return the headers for upstream."""
        parent = self.span_id or self.parent_id or new_span_id()
        headers = {"traceparent": f"00-{self.trace_id}-{parent}-{self.flags:02x}"}
        if self.state:
            headers["tracestate"] = self.state
        if self.request_id:
            headers["X-Request-Id"] = self.request_id
        return headers


def trace_of(headers: Mapping[str, Any], task_id: str, *, makes_spans: bool) -> TraceContext:
    """Return the trace that a task belongs to. It begins here where the client's headers name none.

    Args:
        headers: the client's HTTP headers as the gateway passed them on: a list of values by name.
        task_id: the request id. A trace that begins here has an id made of it, so that all deliveries of a task, to
            whatever node, are one trace.
        makes_spans: the node sends spans of its own to a collector. Else upstream gets the client's span as its parent.
    """
    found = {name.lower(): _texts(value) for name, value in headers.items() if name.lower() in NAMES}
    span_id = new_span_id() if makes_spans else ""
    ids = found.get("x-request-id", ())
    request_id = ids[0] if len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0]) else ""
    parents = found.get("traceparent", ())
    parent = _parse_traceparent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        digest = hashlib.sha256(task_id.encode("utf-8", "replace")).hexdigest()
        flags = SAMPLED if makes_spans else 0
        return TraceContext(digest[:32], "", span_id, flags, "", request_id)
    trace_id, parent_id, flags = parent
    return TraceContext(trace_id, parent_id, span_id, flags, _parse_tracestate(found.get("tracestate", ())), request_id)


def new_span_id() -> str:
    """Return a span id that nobody else has: 16 hexadecimal digits, not all zero."""
    return f"{random.randrange(1, 1 << 64):016x}"


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(each.strip(" \t") for each in values if isinstance(each, str))


def _parse_traceparent(text: str) -> tuple[str, str, int] | None:
    """The trace id, the span id and the flags; None: the text is not a traceparent."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):  # a later version may have more at its end
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return trace_id, parent_id, int(flags, 16) & (SAMPLED | RANDOM)


def _parse_tracestate(values: Sequence[str]) -> str:
    """The tracestate in one text, cut to MOST_CHARACTERS; "" where any part of it breaks the rules."""
    members = [each for value in values for part in value.split(",") if (each := part.strip(" \t"))]
    keys = [found[1] for each in members if (found := _MEMBER.fullmatch(each))]
    if len(keys) != len(members) or len(set(keys)) != len(keys) or len(keys) > MOST_MEMBERS:
        return ""
    while len(",".join(members)) > MOST_CHARACTERS:
        longest = next((each for each in reversed(members) if len(each) > LONG_MEMBER), members[-1])
        members.remove(longest)
    return ",".join(members)
