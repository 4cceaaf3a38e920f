"""One client's connection to a fake, in HTTP/1.1: its requests come in whole, and what the fake answers goes out."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tests.support.wire_server import Server

# How much one read takes off a socket, in bytes; a connection may ask for less to be a slow reader.
READ_SIZE = 256 * 1024


class ClientLeft(Exception):
    """The client closed its connection before it had its answer."""


@dataclass(slots=True)
class Request:
    """One HTTP request, whole. `at` is the moment it was complete (Unix seconds)."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case; of repeated ones the last
    head: bytes  # request line and headers as they came, with the blank line
    body: bytes
    connection: int
    at: float = field(default_factory=time.time)


def head_of(status: int, headers: dict[str, str]) -> bytes:
    """The head of an answer, from status line to blank line."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Connection(asyncio.BufferedProtocol):
    """One client's connection: parses requests, hands them to the server one at a time, sends the server's answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.number = 0
        self.opened_at = 0.0
        self.closed_at: float | None = None
        self.requests = 0
        self.gone = False
        self.read_limit = READ_SIZE
        self.on_bytes: Callable[[bytes], None] | None = None  # set once the connection speaks something else than HTTP
        self._inbox = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.opened_at = time.time()
        # asyncio does this itself only for sockets made with IPPROTO_TCP named explicitly.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server._opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.server.buffer[: self.read_limit]

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.server.buffer[:nbytes])
        if self.on_bytes:
            self.on_bytes(data)
            return
        self._inbox += data
        self._next()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.server.loop.call_soon(self._closed)  # asyncio closes the socket when this has returned

    def _closed(self) -> None:
        self.closed_at = time.time()
        self.server._closed(self)

    def pause_writing(self) -> None:
        self._writable = self.server.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What the fakes call, in the loop's thread.

    async def send(self, data: bytes) -> None:
        """Data to the client; returns when the kernel took most of it."""
        if self.gone:
            raise ClientLeft
        self.transport.write(data)
        if self._writable:
            await self.wait_for(self._writable)

    async def wait_for(self, waiter: asyncio.Future[None]) -> None:
        """Until the future is done; ClientLeft if the client goes first."""
        if self.gone:
            raise ClientLeft
        self._waiter = waiter
        try:
            await waiter
        finally:
            self._waiter = None

    async def pause(self, seconds: float) -> None:
        """So long; ClientLeft if the client goes first."""
        if seconds <= 0:
            return
        waiter = self.server.loop.create_future()
        timer = self.server.loop.call_later(seconds, settle, waiter)
        try:
            await self.wait_for(waiter)
        finally:
            timer.cancel()

    async def never(self) -> None:
        """Until the client leaves, which raises ClientLeft."""
        await self.wait_for(self.server.loop.create_future())

    def reset(self) -> None:
        """Drop the connection with an RST, whatever was not yet sent is lost."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def finish(self) -> None:
        """Send what is left, then close with a FIN."""
        self.transport.close()

    def stop_reading(self) -> None:
        """Read no more, so that the client's sends fill the kernel's buffers and block."""
        self.shrink()
        self.transport.pause_reading()

    def shrink(self) -> None:
        """Make the kernel's receive buffer small, so that a slow reader is felt soon."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    # Requests.

    def _leave(self) -> None:
        self.gone = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(ClientLeft())

    def _next(self) -> None:
        """Start on the next request when it is whole and the one before is answered."""
        if self._task is None and (request := self._parse()):
            self.requests += 1
            self._task = self.server.loop.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            await self.server.serve(self, request)
        except ClientLeft:
            pass
        except Exception as error:  # a fault of the fake itself must not look like a fault of the node
            self.server.mistake(f"{type(error).__name__}: {error}")
            self.reset()
        self._task = None
        if not self.on_bytes and not self.transport.is_closing():
            self._next()

    def _parse(self) -> Request | None:
        end = self._inbox.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._inbox[: end + 4])
        line, *rest = head[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        size = len(head) + int(headers.get("content-length", 0))
        if len(self._inbox) < size:
            return None
        body = bytes(self._inbox[len(head) : size])
        del self._inbox[:size]
        method, path, *_ = line.split(" ")
        return Request(method, path, headers, head, body, self.number)

    def cancel(self) -> None:
        """End the connection and whatever is being answered on it; for the end of the test."""
        if self._task:
            self._task.cancel()
        self.transport.abort()


def settle(waiter: asyncio.Future[None]) -> None:
    """Let whoever waits for the future go on, unless it already did."""
    if not waiter.done():
        waiter.set_result(None)
