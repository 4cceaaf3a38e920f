"""An OpenAI-compatible upstream that answers, or misbehaves, on cue.

What it does to one chat request is a `Directive`: from `script`, else from the request itself (the last message's
content may be `lab:{json}`), else `mode`. It writes down what it was asked and what it sent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import ssl
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.wire import ClientLeft, Connection, Request, Server, head_of, settle


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


@dataclass
class Exchange:
    """One chat request and what became of it. Moments are Unix seconds."""

    request: Request
    key: str = ""
    status: int = 0  # 0: no head was sent
    sent: list[tuple[float, str]] = field(default_factory=list)  # each event's data as it left; a plain body is one
    answered_at: float | None = None
    left_at: float | None = None  # when the client's leaving in the middle was noticed

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def headers(self) -> dict[str, str]:
        return self.request.headers

    @property
    def body(self) -> bytes:
        return self.request.body

    @property
    def at(self) -> float:
        return self.request.at

    @property
    def connection(self) -> int:
        return self.request.connection

    @functools.cached_property
    def json(self) -> Any:
        """The request's body, parsed; None if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def events(self) -> list[str]:
        """The data of each event sent, without [DONE]."""
        return [data for _, data in self.sent if data != "[DONE]"]


class Gate:
    """Lets through as many as it was given permits for, or everybody once it is open. Lives in the loop's thread."""

    def __init__(self) -> None:
        self.permits = 0
        self.is_open = False
        self.waiting: list[asyncio.Future[None]] = []

    def release(self, permits: int) -> None:
        self.permits += permits
        self._let_go()

    def open(self) -> None:
        self.is_open = True
        self._let_go()

    async def passed(self, connection: Connection, notify: Callable[[], None]) -> None:
        waiter = connection.server.loop.create_future()
        self.waiting.append(waiter)
        self._let_go()
        notify()
        try:
            await connection.wait_for(waiter)
        finally:
            if waiter in self.waiting:
                self.waiting.remove(waiter)

    def _let_go(self) -> None:
        while self.waiting and (self.is_open or self.permits > 0):
            waiter = self.waiting.pop(0)
            if not waiter.done():
                self.permits -= not self.is_open
                settle(waiter)


@dataclass
class Limit:
    """A rate limit: a bucket of `burst` requests for each key, refilled `rpm` times a minute."""

    rpm: float
    burst: float
    headers: str  # openai, azure, retry-after, none
    buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: int = 0

    def take(self, key: str) -> tuple[bool, dict[str, str]]:
        """Whether the request may pass, and the rate-limit headers of its answer."""
        now = time.monotonic()
        left, at = self.buckets.get(key, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.rpm / 60)
        passes = left >= 1
        left -= passes
        self.refused += not passes
        self.buckets[key] = left, now
        return passes, self._headers(passes, left)

    def _headers(self, passes: bool, left: float) -> dict[str, str]:
        full, wait = ((goal - left) * 60 / self.rpm for goal in (self.burst, 1))
        headers: dict[str, str] = {}
        if self.headers == "openai":
            headers["x-ratelimit-limit-requests"] = str(int(self.burst))
            headers["x-ratelimit-remaining-requests"] = str(int(left))
            headers["x-ratelimit-reset-requests"] = f"{full:.3f}s"
        if self.headers == "azure":
            headers["x-ratelimit-remaining-requests"] = str(int(left))
            headers["x-ratelimit-reset-requests"] = str(int(full))
        if not passes and self.headers in ("openai", "azure"):
            headers["retry-after-ms"] = str(int(wait * 1000) + 1)
        if not passes and self.headers in ("openai", "retry-after"):
            headers["retry-after"] = str(int(wait) + 1)
        return headers


class FakeUpstream(Server):
    """The server; see the module's and `Directive`'s words. `url` has no path, `api_url` ends in /v1."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Exchange] = []  # chat requests, in order of arrival
        self.other_requests: list[Request] = []  # /models, /health and strange paths
        self.models = ["lab"]
        self.only_key = ""  # what has another key is refused with 401, the list of models, too; "": any key will do
        self.inflight = self.peak = self.total = self.cancelled = 0
        self._counts: Counter[str] = Counter()
        self._gates: dict[str, Gate] = {}
        self._script: Callable[[Exchange], Directive | Mapping[str, Any] | None] | None = None
        self._mode = PLAIN
        self.rate_limit: Limit | None = None
        self._scheme = "https" if tls else "http"
        super().__init__(tls)

    # Set by a test.

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def mode(self) -> Directive:
        """The directive for requests that carry none; set a dictionary or None."""
        return self._mode

    @mode.setter
    def mode(self, words: Directive | Mapping[str, Any] | None) -> None:
        self._mode = directive_of(words)

    def script(self, decide: Callable[[Exchange], Directive | Mapping[str, Any] | None] | None) -> None:
        """Let `decide` choose each request's directive; None: the request's own one, or the mode, counts."""
        self._script = decide

    def limit(self, rpm: float, burst: float | None = None, headers: str = "openai") -> None:
        """Refuse with 429 rate_limit_exceeded what comes faster; burst defaults to a tenth of rpm. rpm=0: no limit."""
        self.rate_limit = Limit(rpm, burst or max(1.0, rpm / 10), headers) if rpm else None

    def open_gate(self, name: str) -> None:
        """Let through everything that waits, or will wait, at the gate."""
        self.post(lambda: self._gate(name).open())

    def release(self, name: str, permits: int = 1) -> None:
        """Let so many through the gate, now or as they come."""
        self.post(lambda: self._gate(name).release(permits))

    # What a test reads.

    def of(self, key: str) -> list[Exchange]:
        """The requests whose directive had this key."""
        return [one for one in list(self.requests) if one.key == key]

    def count(self, key: str) -> int:
        """How many requests had this key."""
        return self._counts[key]

    def waiting_at(self, name: str) -> int:
        """How many answers or chunks wait at the gate."""
        return len(self._gate(name).waiting)

    def wait_for_requests(self, count: int, timeout: float = 10) -> list[Exchange]:
        """Wait until so many chat requests have come in all; gives them."""
        self.wait_until(lambda: len(self.requests) >= count, timeout, f"{count} requests")
        return self.requests[:]

    def wait_for_inflight(self, count: int, timeout: float = 10) -> None:
        """Wait until exactly so many requests are being answered."""
        self.wait_until(lambda: self.inflight == count, timeout, f"{count} requests in flight")

    def wait_for_waiting(self, name: str, count: int = 1, timeout: float = 10) -> None:
        """Wait until so many answers or chunks wait at the gate."""
        self.wait_until(lambda: self.waiting_at(name) >= count, timeout, f"{count} waiting at gate {name!r}")

    def wait_for_cancelled(self, count: int = 1, timeout: float = 10) -> None:
        """Wait until so many clients have left in the middle of their answer."""
        self.wait_until(lambda: self.cancelled >= count, timeout, f"{count} cancelled")

    def summary(self) -> str:
        gates = {name: len(gate.waiting) for name, gate in list(self._gates.items())}
        return (
            f"upstream: {self.total} requests, {self.inflight} in flight (peak {self.peak}), {self.cancelled} "
            f"cancelled, {super().summary()}, at gates: {gates}"
        )

    # The answers.

    async def serve(self, connection: Connection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if request.method == "POST" and path.endswith("/chat/completions"):
            await self._chat(connection, Exchange(request))
            return
        self.other_requests.append(request)
        self.notify()
        if path.endswith("/models"):
            if not self._takes_key(request):
                await _whole(connection, 401, error_of(WRONG_KEY), {})
            elif self._mode.status in (401, 403):
                await _whole(connection, self._mode.status, error_of(self._mode), {})
            else:
                listed = [{"id": name, "object": "model"} for name in self.models]
                await _whole(connection, 200, _encoded({"object": "list", "data": listed}), {})
        elif path.endswith("/health"):
            await _whole(connection, 200, b'{"status":"ok"}', {})
        else:
            unknown = Directive(err_type="invalid_request_error", err_code="unknown_url", err_msg="Unknown request URL")
            await _whole(connection, 404, error_of(unknown), {})

    async def _chat(self, connection: Connection, exchange: Exchange) -> None:
        self.total += 1
        self.inflight += 1
        self.peak = max(self.peak, self.inflight)
        try:
            await self._counted(connection, exchange)
            exchange.answered_at = time.time()
        except ClientLeft:
            exchange.left_at = time.time()
            self.cancelled += 1
        finally:
            self.inflight -= 1
            self.notify()

    async def _counted(self, connection: Connection, exchange: Exchange) -> None:
        directive = self._directive(exchange)
        exchange.key = directive.key
        self._counts[directive.key] += 1
        self.requests.append(exchange)
        self.notify()
        headers: dict[str, str] = {}
        if self.rate_limit:
            passes, headers = self.rate_limit.take(exchange.headers.get("authorization", ""))
            if not passes:
                exchange.status = 429
                await _whole(connection, 429, error_of(REFUSAL), headers)
                return
        if directive.fail_times and self._counts[directive.key] > directive.fail_times:
            directive = healed(directive)
        await _Answer(self, connection, exchange, directive, headers).send()

    def _takes_key(self, request: Request) -> bool:
        return not self.only_key or request.headers.get("authorization") == f"Bearer {self.only_key}"

    def _directive(self, exchange: Exchange) -> Directive:
        if not self._takes_key(exchange.request):
            return WRONG_KEY
        try:
            if self._script and (decided := self._script(exchange)) is not None:
                return directive_of(decided)
            messages = (exchange.json or {}).get("messages")
            content = messages[-1]["content"] if messages else None
            if isinstance(content, str) and content.startswith("lab:"):
                return parse(content[4:])
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            self.mistake(f"bad directive: {type(error).__name__}: {error}")
        return self._mode

    def _gate(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate())


class _Answer:
    """One answer on its way."""

    def __init__(
        self,
        upstream: FakeUpstream,
        connection: Connection,
        exchange: Exchange,
        directive: Directive,
        headers: dict[str, str],
    ) -> None:
        self.upstream = upstream
        self.connection = connection
        self.exchange = exchange
        self.directive = directive
        self.headers = {**headers, **directive.headers}
        self.asked = exchange.json if isinstance(exchange.json, dict) else {}
        self.chunked = False
        self.head = b""  # leaves together with the body's first bytes

    async def send(self) -> None:
        d, connection = self.directive, self.connection
        await connection.pause((d.hang_ms + d.latency_ms) / 1000)
        if d.gate:
            await self._pass(d.gate)
        if d.reset or d.cut_after == -1:
            connection.reset()
        elif d.close:
            connection.finish()
        elif d.redirect_to:
            self.headers["Location"] = d.redirect_to
            await self._body(d.status or 307, [b""])
        elif d.html:
            page = b"<!DOCTYPE html><html><head><title>Oops</title></head><body><h1>nginx</h1></body></html>"
            await self._body(d.status or 200, [page], "text/html")
        elif d.raw is not None:
            pieces = d.raw if isinstance(d.raw, list) else [d.raw]
            await self._body(d.status or 200, [one.encode() if isinstance(one, str) else one for one in pieces])
        elif d.status not in (0, 200):
            await self._body(d.status, [error_of(d)])
        elif d.reject_stream_options and "stream_options" in self.asked:
            text = "Unrecognized request argument supplied: stream_options"
            await self._body(400, [error_of(Directive(err_type="invalid_request_error", err_msg=text))])
        elif d.sse_to_plain or (self.asked.get("stream") and not d.no_stream):
            await self._stream()
        else:
            await self._body(200, [await self._completion()])

    # Plain answers.

    async def _completion(self) -> bytes:
        d = self.directive
        content = "x" * d.size if d.size else "wörd " * d.chunks
        if d.echo:
            content = self.exchange.body.decode("utf-8", "replace")
        message = {"role": "assistant", "content": content}
        answer = {
            "id": "chatcmpl-lab",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.asked.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        if not d.no_usage:
            answer["usage"] = self._usage()
        return await self._spoilt(_encoded(answer))

    async def _spoilt(self, body: bytes) -> bytes:
        """The JSON with what the directive asks to be wrong with it."""
        d = self.directive
        if d.deep:
            body = body[:-1] + b',"deep":' + b"[" * d.deep + b"]" * d.deep + b"}"
        if d.nan:
            body = body[:-1] + b',"score":NaN}'
        if d.invalid_utf8:
            body = body.replace(b'"content":"', b'"content":"\xc3\x28\xff', 1)
        if megabytes := d.big_mb or d.gzip_bomb_mb:
            body = body.replace(b'"content":"', b'"content":"' + b"x" * (megabytes << 20), 1)
        return body

    async def _body(self, status: int, pieces: list[bytes], content_type: str = "application/json") -> None:
        """Answer with a body of these pieces, framed by the directive."""
        d = self.directive
        if d.gzip_bomb_mb:
            pieces = [await self.upstream.loop.run_in_executor(None, _gzipped, b"".join(pieces))]
            self.headers["Content-Encoding"] = "gzip"
        length = sum(map(len, pieces)) + (100 if d.truncated else -10 if d.wrong_length else 0)
        self._head(status, content_type, length)
        if d.cut_after > 0:
            await self._write(b"".join(pieces)[: d.cut_after])
            self.connection.reset()
            return
        for number, piece in enumerate(pieces):
            if number:
                await self.connection.pause(d.chunk_ms / 1000)
            self.exchange.sent.append((time.time(), piece.decode("utf-8", "replace") if len(piece) < 1 << 20 else ""))
            await self._write(piece)
        self._end()

    # Streams.

    async def _stream(self) -> None:
        d = self.directive
        if d.gzip_bomb_mb:
            body = "".join(map(self._event, [*await self._contents(), "[DONE]"])).encode()
            await self._body(200, [body], "text/event-stream")
            return
        contents = await self._contents()
        first = self._chunk({"role": "assistant", "content": ""})
        events = [first, *contents, *self._tail()]
        if d.error_mid:
            error = '{"error":{"message":"mid-stream failure","type":"server_error","param":null,"code":null}}'
            events = [first, *contents[: len(contents) // 2], error]
        self._head(200, "text/event-stream", None)
        if d.one_write:
            self.exchange.sent += [(time.time(), data) for data in events]
            await self._write("".join(map(self._event, events)).encode())
            self._end()
            return
        for number, data in enumerate(events):
            if d.gate_chunks and 1 <= number <= len(contents) + 1:
                await self._pass(d.gate_chunks)
            if 0 < d.cut_after < number:
                self.connection.reset()
                return
            self.exchange.sent.append((time.time(), data))
            await self._write_event(self._event(data).encode("utf-8", "surrogateescape"))
            if d.chunk_ms and 1 <= number <= len(contents):
                await self.connection.pause(d.chunk_ms / 1000)
        self._end()

    async def _contents(self) -> list[str]:
        d = self.directive
        word = "x" * d.size if d.size else "wörd "
        contents = [self._chunk({"content": f"{word}{number} "}) for number in range(d.chunks)]
        if contents and d.usage_on_last:
            contents[-1] = self._chunk({"content": f"{word}{d.chunks - 1} "}, usage=self._usage())
        if contents:
            contents[0] = (await self._spoilt(contents[0].encode())).decode("utf-8", "surrogateescape")
        return contents

    def _tail(self) -> list[str]:
        d = self.directive
        tail = [] if d.no_finish else [self._chunk({}, finish="stop")]
        if self._usage_asked and not d.usage_on_last:
            tail.append(self._chunk(None, usage=self._usage()))
        return tail if d.no_done else [*tail, "[DONE]"]

    @property
    def _usage_asked(self) -> bool:
        options = self.asked.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage")) and not self.directive.no_usage

    def _usage(self) -> dict[str, int]:
        count = self.directive.chunks
        return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}

    def _chunk(
        self, delta: dict[str, str] | None, finish: str | None = None, usage: dict[str, int] | None = None
    ) -> str:
        chunk = {
            "id": "chatcmpl-lab",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.asked.get("model"),
            "choices": [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        if self._usage_asked or usage:
            chunk["usage"] = usage
        return _encoded(chunk).decode()

    def _event(self, data: str) -> str:
        d = self.directive
        newline = "\r\n" if d.crlf else "\r" if d.cr else "\n"
        if d.pretty and data != "[DONE]":
            data = json.dumps(json.loads(data), ensure_ascii=False, indent=1)
        name = "data:" if d.no_space else "data: "
        event = "".join(f"{name}{line}{newline}" for line in data.split("\n")) + newline
        return f": ping{newline}{newline}{event}" if d.comments else event

    async def _write_event(self, event: bytes) -> None:
        if not self.directive.split:
            await self._write(event)
            return
        middle = event.find("ö".encode()) + 1 or len(event) // 2
        await self._write(event[:middle])
        await self.connection.pause(0.002)
        await self._write(event[middle:])

    # The wire.

    def _head(self, status: int, content_type: str, length: int | None) -> None:
        d = self.directive
        headers = {"Content-Type": d.content_type or content_type, **self.headers}
        if d.close_delimited:
            headers["Connection"] = "close"
        elif length is not None:
            headers["Content-Length"] = str(length)
        else:
            headers["Transfer-Encoding"] = "chunked"
            self.chunked = True
        self.exchange.status = status
        self.head = head_of(status, headers)

    async def _write(self, data: bytes) -> None:
        if not self.directive.drip_ms:
            await self.connection.send(self._framed(data))
            return
        await self.connection.send(self._framed(b""))
        for number in range(len(data)):
            await self.connection.pause(self.directive.drip_ms / 1000)
            await self.connection.send(self._framed(data[number : number + 1]))

    def _framed(self, data: bytes) -> bytes:
        head, self.head = self.head, b""
        return head + (b"%x\r\n%b\r\n" % (len(data), data) if self.chunked and data else data)

    def _end(self) -> None:
        d = self.directive
        if self.chunked and not d.truncated and not self.connection.gone:
            self.connection.transport.write(b"0\r\n\r\n")
        if d.truncated or d.close_delimited or d.then_close:
            self.connection.finish()

    async def _pass(self, gate: str) -> None:
        await self.upstream._gate(gate).passed(self.connection, self.upstream.notify)


def error_of(directive: Directive) -> bytes:
    """OpenAI's error body, as the directive words it."""
    message = directive.err_msg or f"lab error {directive.status}"
    error = {"message": message, "type": directive.err_type, "param": None, "code": directive.err_code}
    return _encoded({"error": error})


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _gzipped(body: bytes) -> bytes:
    squeeze = zlib.compressobj(1, wbits=31)
    return squeeze.compress(body) + squeeze.flush()


async def _whole(connection: Connection, status: int, body: bytes, headers: dict[str, str]) -> None:
    head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    await connection.send(head_of(status, head) + body)
