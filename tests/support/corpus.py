"""The corpus: upstreams that answer in their own way, one small file each. tests/corpus/README.md explains it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT
from tests.support.wire import Connection, Request, head_of
from tests.support.wire_server import Server

CORPUS = ROOT / "tests" / "corpus"
HEARTBEAT = 0.02  # seconds between two comments of a stream that only keeps itself alive
PIECE_PAUSE = 0.02  # seconds between two pieces of a body
EXPECTED = {
    *("status", "decision", "calls", "fault", "text", "frames", "error", "client_error", "usage", "usage_source"),
    *("retry_after", "no_error"),
}
ASKED = {"stream", "usage", "n", "model", "settings", "seconds", "redeliveries", "tasks"}


@dataclass(frozen=True)
class Reply:
    """One answer of the upstream, or what it does instead of one."""

    status: int = 200
    body: str | list[str] = ""  # a list leaves in pieces
    content_type: str = ""  # "": by the body
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    body_delay: float = 0.0  # seconds between the head and the body
    # end: as HTTP wants it; open: the body has no end; heartbeat: comments instead of an end; reset: RST; close: FIN
    # without the end that was announced; close_delimited: the end of the body is the end of the connection.
    then: str = "end"
    only_with_options: bool = False  # this reply is for requests with `stream_options`; others get the next one
    times: int = 0  # calls that get this reply before the next one takes over; 0: all


@dataclass(frozen=True)
class Case:
    """One file of the corpus."""

    path: Path
    about: str
    source: str
    ask: dict[str, Any]
    upstream: list[Reply]
    expect: dict[str, Any]
    whole_node: bool  # also run through a node with a real broker

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"


def load(path: Path) -> Case:
    """Return the case of a file. Raises ValueError where the file has an unknown key."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    replies = content["upstream"] if isinstance(content["upstream"], list) else [content["upstream"]]
    case = Case(
        path,
        content["about"],
        content["source"],
        content.get("ask", {}),
        [Reply(**each) for each in replies],
        content["expect"],
        content.get("whole_node", False),
    )
    if unknown := (set(case.expect) - EXPECTED) | (set(case.ask) - ASKED):
        raise ValueError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    if not case.source or not case.about:
        raise ValueError(f"{path}: without a source or a sentence about it")
    return case


@functools.cache
def cases() -> list[Case]:
    """Return every case, by path. Do not change them: all callers get the same."""
    return [load(path) for path in sorted(CORPUS.glob("*/*.yaml"))]


class ScriptedUpstream(Server):
    """Answers each chat request with the next reply of a case."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies
        self.calls: list[dict[str, Any]] = []  # bodies of the chat requests
        self._used: dict[int, int] = {}
        super().__init__()

    @property
    def api_url(self) -> str:
        return f"http://{self.address}/v1"

    async def serve(self, connection: Connection, request: Request) -> None:
        if request.method != "POST":
            await connection.send(head_of(404, {"Content-Length": "0"}))
            return
        asked = json.loads(request.body)
        self.calls.append(asked)
        self.notify()
        await self._send(connection, self._next_reply("stream_options" in asked))

    def _next_reply(self, has_options: bool) -> Reply:
        for number, reply in enumerate(self.replies):
            used = self._used.get(number, 0)
            if (reply.only_with_options and not has_options) or (reply.times and used >= reply.times):
                continue
            self._used[number] = used + 1
            return reply
        return self.replies[-1]

    async def _send(self, connection: Connection, reply: Reply) -> None:
        await connection.pause(reply.delay)
        pieces = [piece.encode("utf-8", "surrogateescape") for piece in _list(reply.body)]
        if not pieces and reply.then in ("reset", "close") and not reply.body_delay:
            _end_badly(connection, reply.then)
            return
        is_stream = bool(pieces) and pieces[0].lstrip().startswith((b"data", b":", b"event", b"error", b"id"))
        headers = {"Content-Type": reply.content_type or ("text/event-stream" if is_stream else "application/json")}
        is_chunked = is_stream and reply.then != "close_delimited"
        if is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif reply.then != "close_delimited":
            headers["Content-Length"] = str(sum(map(len, pieces)) + (100 if reply.then != "end" else 0))
        await connection.send(head_of(reply.status, {**headers, **reply.headers}))
        await connection.pause(reply.body_delay)
        for number, piece in enumerate(pieces):
            await connection.pause(PIECE_PAUSE if number else 0)
            await connection.send(_framed(piece, is_chunked))
        await self._end(connection, reply.then, is_chunked)

    async def _end(self, connection: Connection, then: str, is_chunked: bool) -> None:
        if then == "end" and is_chunked:
            await connection.send(b"0\r\n\r\n")
        elif then == "open":
            await connection.never()
        elif then == "heartbeat":
            while True:
                await connection.pause(HEARTBEAT)
                await connection.send(_framed(b": keep-alive\n\n", is_chunked))
        elif then in ("reset", "close", "close_delimited"):
            await connection.pause(PIECE_PAUSE)  # so that what was sent is read before the end
            _end_badly(connection, then)


def _list(body: str | list[str]) -> list[str]:
    return body if isinstance(body, list) else [body] if body else []


def _framed(piece: bytes, is_chunked: bool) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece


def _end_badly(connection: Connection, then: str) -> None:
    if then == "reset":
        connection.reset()
    else:
        connection.finish()


def text_of(chunks: list[Any]) -> str:
    """Return the text that a client has seen: of chunks, or of a completion; of several choices one after another."""
    parts: dict[int, str] = {}
    for choice in _choices(chunks):
        words = choice.get("delta") or choice.get("message") or {}
        parts[choice.get("index") or 0] = parts.get(choice.get("index") or 0, "") + (words.get("content") or "")
    return "".join(parts[index] for index in sorted(parts))


def _choices(chunks: list[Any]) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        if isinstance(chunk, dict):
            yield from (choice for choice in chunk.get("choices") or [] if isinstance(choice, dict))



