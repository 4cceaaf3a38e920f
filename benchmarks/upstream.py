"""The upstream of the benchmarks. Its answers are prepared, so that it uses little CPU.

It is built on the tests' server. It gives all requests the same answer, which the benchmark sets over a pipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from benchmarks.server_process import ServerProcess
from tests.support.upstream import REFUSAL, Limit, error_of
from tests.support.wire import Connection, Request, head_of
from tests.support.wire_server import Server

MODEL = "bench"
WORD = "word "


@dataclass(frozen=True)
class Answering:
    """How the upstream answers."""

    latency_s: float = 0.0  # before the first byte
    chunks: int = 5  # content chunks of a stream
    chunk_s: float = 0.0  # pause after each
    rpm: float = 0.0  # requests a minute beyond which it refuses; 0: no limit


@dataclass(frozen=True)
class Asked:
    """What the upstream was asked since the last `answer`."""

    calls: int
    refused: int


class Upstream:
    """The upstream's process, as the benchmark uses it."""

    def __init__(self) -> None:
        self._process = ServerProcess(serve)
        self.port = self._process.port
        self.api_url = f"http://127.0.0.1:{self.port}/v1"

    def answer(self, how: Answering) -> None:
        """Answer in this way from now on, and start counting again."""
        self._process.pipe.send(how)
        self._process.pipe.recv()

    def asked(self) -> Asked:
        """Return the counts since the last `answer`."""
        self._process.pipe.send(None)
        asked: Asked = self._process.pipe.recv()
        return asked

    def close(self) -> None:
        self._process.close()


def serve(pipe: Pipe) -> None:
    """Run the process: the server in its thread, and this thread, which waits for the benchmark's commands."""
    server = QuickUpstream()
    pipe.send(server.port)
    while True:
        try:
            how = pipe.recv()
        except EOFError:
            return
        if how is not None:
            server.post(server.set, how)
        pipe.send(Asked(server.calls, server.refused))


class QuickUpstream(Server):
    """The server. Its counts belong to the loop's thread, and are read while no load runs."""

    def __init__(self) -> None:
        self.set(Answering())
        super().__init__()

    def set(self, how: Answering) -> None:
        self.how = how
        self.calls = self.refused = 0
        self.limit = Limit(how.rpm, max(1.0, how.rpm / 10), "openai") if how.rpm else None
        self.completion = completion(how.chunks)
        self.head = _head({})
        self.streams = {usage: [_framed(f"data: {one}\n\n") for one in events(how.chunks, usage)] for usage in (0, 1)}

    async def serve(self, connection: Connection, request: Request) -> None:
        if not request.path.endswith("/chat/completions"):
            models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            await connection.send(_head({}, len(models)) + models)
            return
        self.calls += 1
        headers: dict[str, str] = {}
        if self.limit:
            passes, headers = self.limit.take("")
            if not passes:
                self.refused += 1
                refusal = error_of(REFUSAL)
                await connection.send(_head(headers, len(refusal), 429) + refusal)
                return
        asked = json.loads(request.body)
        await connection.pause(self.how.latency_s)
        if asked.get("stream"):
            await self._stream(connection, asked)
        else:
            await connection.send(_head(headers, len(self.completion)) + self.completion)

    async def _stream(self, connection: Connection, asked: dict[str, Any]) -> None:
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        await connection.send(self.head)
        for number, event in enumerate(self.streams[usage]):
            await connection.send(event)
            if 0 < number <= self.how.chunks:
                await connection.pause(self.how.chunk_s)
        await connection.send(b"0\r\n\r\n")


def completion(tokens: int) -> bytes:
    """Return a plain answer."""
    message = {"role": "assistant", "content": WORD * tokens}
    return _encoded(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(tokens),
        }
    ).encode()


def events(tokens: int, usage: int) -> Iterable[str]:
    """The data of a stream's events: the role, the tokens, the end, usage where it was asked for, [DONE]."""
    yield _chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for number in range(tokens):
        yield _chunk([{"index": 0, "delta": {"content": f"{WORD}{number} "}, "finish_reason": None}])
    yield _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if usage:
        yield _chunk([], usage=_usage(tokens))
    yield "[DONE]"


def _chunk(choices: list[dict[str, Any]], **more: Any) -> str:
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return _encoded({**head, "choices": choices, **more})


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}


def _encoded(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _framed(event: str) -> bytes:
    """An event as one chunk of the transfer encoding."""
    return f"{len(event):x}\r\n{event}\r\n".encode()


def _head(headers: dict[str, str], length: int | None = None, status: int = 200) -> bytes:
    kind = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    if length is not None:
        kind = {"Content-Type": "application/json", "Content-Length": str(length)}
    return head_of(status, {**kind, **headers})
