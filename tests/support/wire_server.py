"""The server's end of HTTP/1.1 on the wire: what the fakes have in common.

One asyncio loop in one thread for each fake: hundreds of connections cost next to nothing, a client that leaves is
noticed at once, and the socket is at hand for every kind of bad manners. Knows nothing of chats and answers.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.wait import patient
from tests.support.wire import READ_SIZE, Connection, Request

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
