"""Answers as the tests of this folder send them."""

from __future__ import annotations

import time

from tests.support.gateway import FakeGateway
from workernode.gateway import AnswerResult, Gateways, StreamReply
from workernode.net.websocket import WebSocket
from workernode.protocol import AnswerState
from workernode.task import read_endpoint

LONG = 20.0  # seconds: what must end sooner by something else
DATA = b'{"id": "x",  "choices": [{"message": {"content": "h\xc3\xa4llo"}}]}'


def soon(seconds: float = LONG) -> float:
    return time.monotonic() + seconds


def post(
    gateways: Gateways, gateway: FakeGateway, id: str = "a", seconds: float = LONG, once: bool = False
) -> AnswerResult:
    return gateways.post(read_endpoint(gateway.post_url), id, DATA, soon(seconds), once=once)


class Stream:
    """The way back of one stream, and what was shown of it."""

    def __init__(self, gateways: Gateways, gateway: FakeGateway, id: str = "a", seconds: float = LONG) -> None:
        self.shown: list[AnswerState] = []
        self.began = time.monotonic()
        endpoint = read_endpoint(gateway.ws_url)
        self.reply: StreamReply = gateways.stream(endpoint, id, self.began, soon(seconds), self.shown.append)


def chunk(number: int, size: int = 0) -> bytes:
    return b'{"choices": [{"delta": {"content": "%d%b"}}]}' % (number, b"x" * size)


def speak(
    gateways: Gateways, gateway: FakeGateway, id: str = "a", chunks: int = 2, seconds: float = LONG, once: bool = False
) -> AnswerResult:
    """A stream that goes well on the node's side."""
    stream = Stream(gateways, gateway, id, seconds)
    stream.reply.connect()
    stream.reply.send([chunk(number) for number in range(chunks)])
    return stream.reply.end(once=once)


def kept(gateways: Gateways) -> WebSocket:
    """The one connection that is kept."""
    ((socket, _),) = next(iter(gateways.connections._sockets.values()))
    return socket


def answered(gateways: Gateways) -> bool:
    socket = kept(gateways)
    return socket.read() and socket.answered
