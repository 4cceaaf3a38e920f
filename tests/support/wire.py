"""The server's end of HTTP/1.1 on the wire: what the fakes have in common.

One asyncio loop in one thread for each fake: hundreds of connections cost next to nothing, a client that leaves is
noticed at once, and the socket is at hand for every kind of bad manners. Knows nothing of chats and answers.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

from tests.support.wait import patient

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


# Turns of the loop in which a connection is begun, or closed for good, even one in the middle of its TLS handshake.
CLOSING_TURNS = 10


class Server:
    """Listens on a free port of 127.0.0.1; a subclass answers in `serve`.

    State changes happen in the loop's thread; `changed` is notified at each, for tests to wait on.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.changed = threading.Condition()
        self.buffer = memoryview(bytearray(READ_SIZE))
        self.connections: list[Connection] = []  # every one there ever was, in order
        self.mistakes: list[str] = []  # faults of the test or of the fake, for the fixture to complain about
        self._tls = tls
        self._listener: asyncio.Server | None = None
        # Holds the port without listening, so that nobody else gets it while the server is down.
        self._holder = self._bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._thread = threading.Thread(target=self.loop.run_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        self.up()

    async def serve(self, connection: Connection, request: Request) -> None:
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> list[Connection]:
        return [one for one in list(self.connections) if one.closed_at is None]

    def wait_until(self, condition: Callable[[], Any], timeout: float, what: str) -> None:
        """Wait for a condition on this fake's state, without polling; AssertionError past the deadline."""
        timeout = patient(timeout)
        with self.changed:
            if not self.changed.wait_for(condition, timeout):
                raise AssertionError(f"no {what} within {timeout:g} s; {self.summary()}")

    def summary(self) -> str:
        """The state in a line, for failures."""
        return f"{len(self.connections)} connections, {len(self.open_connections)} open"

    def down(self) -> None:
        """Stop listening and drop every connection: new ones are refused."""
        self.run(self._down())

    def up(self) -> None:
        """Listen (again), on the same port."""
        self.run(self._up())

    def cut_connections(self) -> None:
        """Drop every open connection with an RST, and go on listening."""
        self.post(self._cut)

    def close(self) -> None:
        """Stop for good."""
        if self.loop.is_closed():
            return
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        self._holder.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop's thread and give its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def post(self, act: Callable[..., None], *args: Any) -> None:
        """Call something in the loop's thread, and return when it is done."""

        async def call() -> None:
            act(*args)

        if threading.current_thread() is self._thread:
            act(*args)
        else:
            self.run(call())

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def mistake(self, text: str) -> None:
        self.mistakes.append(text)

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    async def _up(self) -> None:
        if not self._listener:
            self._listener = await self.loop.create_server(
                lambda: Connection(self), sock=self._bound(self.port), backlog=1024, ssl=self._tls
            )

    async def _down(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None
        self._cut()

    def _cut(self) -> None:
        for connection in self.open_connections:
            connection.reset()

    async def _stop(self) -> None:
        if self._listener:
            # A connection that was just accepted is a task that has not begun. With the listener closed, or cancelled,
            # it would begin nothing and close nothing.
            for listening in self._listener.sockets:
                self.loop.remove_reader(listening.fileno())
            await self._pass_turns()
            self._listener.close()
        for connection in self.open_connections:
            connection.cancel()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._pass_turns()

    async def _pass_turns(self) -> None:
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)

    def _opened(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.number = len(self.connections)
        self.notify()

    def _closed(self, connection: Connection) -> None:
        self.notify()


def settle(waiter: asyncio.Future[None]) -> None:
    """Let whoever waits for the future go on, unless it already did."""
    if not waiter.done():
        waiter.set_result(None)
