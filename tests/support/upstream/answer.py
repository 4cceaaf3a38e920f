"""One answer: its body or stream, and how its bytes are sent."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from typing import Any, Protocol

from tests.support.upstream.directive import Directive, encoded, error_of
from tests.support.upstream.exchange import Exchange
from tests.support.upstream.gate import Gate
from tests.support.wire import Connection, head_of


class Upstream(Protocol):
    """What an answer needs of its server."""

    loop: asyncio.AbstractEventLoop

    def gate(self, name: str) -> Gate: ...

    def notify(self) -> None: ...


class Answer:
    """One answer on its way."""

    def __init__(
        self,
        upstream: Upstream,
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
        return await self._spoilt(encoded(answer))

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
            pieces = [await self.upstream.loop.run_in_executor(None, gzipped, b"".join(pieces))]
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

    def _usage(self) -> dict[str, Any]:
        count = self.directive.chunks
        return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count, **self.directive.usage}

    def _chunk(
        self, delta: dict[str, str] | None, finish: str | None = None, usage: dict[str, Any] | None = None
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
        return encoded(chunk).decode()

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
        await self.upstream.gate(gate).passed(self.connection, self.upstream.notify)


def gzipped(body: bytes) -> bytes:
    squeeze = zlib.compressobj(1, wbits=31)
    return squeeze.compress(body) + squeeze.flush()


async def whole(connection: Connection, status: int, body: bytes, headers: dict[str, str]) -> None:
    head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    await connection.send(head_of(status, head) + body)
