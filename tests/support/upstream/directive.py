"""What the upstream does to one request."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Directive:
    """What to do to one request. Times in milliseconds. Without any: a good answer at once."""

    key: str = ""  # the request's name in the counts and in `of(key)`
    fail_times: int = 0  # only the first so many requests with this key suffer what FAULTS names; 0: all
    # When.
    latency_ms: float = 0
    hang_ms: float = 0  # accept, and answer nothing for so long
    gate: str = ""  # the answer waits until the test opens the gate of this name
    gate_chunks: str = ""  # each content chunk, and the end, waits for a release of its own; the role chunk is free
    chunk_ms: float = 0  # pause after each content chunk
    drip_ms: float = 0  # the body leaves byte by byte, so far apart
    # An error instead of an answer.
    status: int = 0
    err_type: str = "server_error"
    err_code: str | None = None
    err_msg: str = ""
    html: bool = False  # a proxy's page instead of JSON, with `status` or 200
    redirect_to: str = ""  # a Location, with `status` or 307
    reject_stream_options: bool = False
    # What the answer is.
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    raw: str | bytes | list[str | bytes] | None = None  # this body as is; a list leaves in pieces, `chunk_ms` apart
    chunks: int = 5
    size: int = 0  # characters of content in a plain answer, or in each chunk
    echo: bool = False  # the content of a plain answer is the request's body
    big_mb: int = 0  # content of so many MiB in one plain answer, or in one chunk
    gzip_bomb_mb: int = 0  # the same, gzip-encoded, so that a few kB travel
    deep: int = 0  # a field with arrays nested so deep, in the plain answer or the first content chunk
    nan: bool = False  # a field that is NaN, there too
    invalid_utf8: bool = False  # content that is not UTF-8, there too
    no_usage: bool = False
    usage: Mapping[str, Any] = field(default_factory=dict)  # figures besides the usual ones, or instead of them
    usage_on_last: bool = False  # usage rides on the last content chunk, asked for or not, and has no chunk of its own
    no_stream: bool = False  # JSON to a stream request
    sse_to_plain: bool = False  # SSE to a plain request
    # How a stream is written.
    crlf: bool = False
    cr: bool = False
    comments: bool = False
    no_space: bool = False  # `data:` without a space
    pretty: bool = False  # each event's JSON over several data lines
    split: bool = False  # flush in the middle of lines and of UTF-8 characters
    one_write: bool = False  # the whole stream leaves in one piece
    no_done: bool = False
    no_finish: bool = False  # no chunk has a finish_reason
    error_mid: bool = False  # after half of the content an error event, then the body's end
    # What the socket does.
    reset: bool = False  # RST instead of an answer
    close: bool = False  # FIN instead of an answer
    cut_after: int = 0  # RST after so many content chunks of a stream, or bytes of a plain body; -1: before any byte
    truncated: bool = False  # FIN before the body's announced end: Content-Length too large, or no last chunk
    wrong_length: bool = False  # Content-Length ten bytes too small
    close_delimited: bool = False  # body ended by closing, neither chunked nor with a length
    then_close: bool = False  # whole answer, then FIN without `Connection: close`: a kept connection gone stale


FAULTS = (
    *("hang_ms", "drip_ms", "status", "html", "redirect_to", "raw", "content_type", "big_mb", "gzip_bomb_mb", "deep"),
    *("nan", "invalid_utf8", "error_mid", "no_finish", "reset", "close", "cut_after", "truncated", "wrong_length"),
)
FIELDS = frozenset(one.name for one in dataclasses.fields(Directive))
PLAIN = Directive()
WRONG_KEY = Directive(status=401, err_type="invalid_request_error", err_code="invalid_api_key", err_msg="wrong key")
REFUSAL = Directive(err_type="requests", err_code="rate_limit_exceeded", err_msg="Rate limit reached for requests")


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Directive:
    """Return the directive in a JSON text. Raises ValueError naming keys that do not exist."""
    return directive_of(json.loads(text))


def directive_of(words: Directive | Mapping[str, Any] | None) -> Directive:
    """A directive from a dictionary of its fields. Raises ValueError naming keys that do not exist."""
    if words is None:
        return PLAIN
    if isinstance(words, Directive):
        return words
    if unknown := set(words) - FIELDS:
        raise ValueError(f"no such directive: {', '.join(sorted(unknown))}")
    return Directive(**words)


def healed(directive: Directive) -> Directive:
    """The same without what FAULTS names."""
    return dataclasses.replace(directive, **{name: getattr(PLAIN, name) for name in FAULTS})


def error_of(directive: Directive) -> bytes:
    """OpenAI's error body, as the directive words it."""
    message = directive.err_msg or f"lab error {directive.status}"
    error = {"message": message, "type": directive.err_type, "param": None, "code": directive.err_code}
    return encoded({"error": error})


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
