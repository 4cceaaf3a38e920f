"""The gateway of the benchmarks: receives answers, and reports to the load generator when each chunk came.

It is built on the tests' server and reads WebSocket frames itself. The tests' gateway keeps all that it
received, and would use more CPU than the node that is measured.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from array import array
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any

from websockets.frames import Opcode

from benchmarks.server_process import ServerProcess
from tests.support.wire import Connection, Request, head_of
from tests.support.wire_server import Server

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled part
    from websockets.utils import apply_mask

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
ACCEPTED = b'{"status":"ok"}'
FINAL = 0x80
Report = tuple[str, bool, bytes]  # id, whether it is no error, moments of its chunks (array of doubles, monotonic)


class Gateway:
    """The gateway's process, for the benchmark. `pipe` gives a Report for each whole answer, and None after `cut`."""

    def __init__(self) -> None:
        self._process = ServerProcess(serve)
        self.pipe = self._process.pipe
        self.post_url = f"http://127.0.0.1:{self._process.port}/res"
        self.ws_url = f"ws://127.0.0.1:{self._process.port}/res/ws"

    def cut(self) -> None:
        """Have unfinished answers reported as they are, and then None."""
        self.pipe.send(None)

    def close(self) -> None:
        self._process.close()


def serve(pipe: Pipe) -> None:
    """Run the process: the server in its thread, and this thread, which waits for the benchmark's commands."""
    server = QuickGateway(pipe.send)
    pipe.send(server.port)
    while True:
        try:
            pipe.recv()
        except (EOFError, ConnectionResetError):  # the latter if reports were left unread
            return
        server.post(server.cut)


class QuickGateway(Server):
    """The server. A second answer to an id is reported, too; the load generator takes it for an error."""

    def __init__(self, report: Callable[[Report | None], None]) -> None:
        self._report = report
        self._moments: dict[str, array[float]] = {}
        self._failed: set[str] = set()
        super().__init__()

    async def serve(self, connection: Connection, request: Request) -> None:
        if "upgrade" in request.headers:
            connection.on_bytes = Frames(partial(self._frame, connection)).feed
            await connection.send(_accepted(request.headers["sec-websocket-key"]))
            return
        answer = json.loads(request.body)
        self._data(answer["request_id"], answer["data"], time.monotonic())
        self._end(answer["request_id"])
        headers = {"Content-Type": "application/json", "Content-Length": str(len(ACCEPTED))}
        await connection.send(head_of(200, headers) + ACCEPTED)

    def cut(self) -> None:
        """Report all unfinished answers as they are."""
        for id in list(self._moments):
            self._end(id)
        self._report(None)

    def _frame(self, connection: Connection, opcode: int, payload: bytes, at: float) -> None:
        if opcode == Opcode.TEXT:
            frame = json.loads(payload)
            if "data" in frame:
                self._data(frame["request_id"], frame["data"], at)
            if frame["end"]:
                self._end(frame["request_id"])
        elif opcode == Opcode.PING:
            connection.transport.write(bytes([FINAL | Opcode.PONG, len(payload)]) + payload)
        elif opcode == Opcode.CLOSE:
            connection.transport.write(bytes([FINAL | Opcode.CLOSE, len(payload)]) + payload)
            connection.finish()

    def _data(self, id: str, data: Any, at: float) -> None:
        if "error" in data:
            self._failed.add(id)
        self._moments.setdefault(id, array("d")).append(at)

    def _end(self, id: str) -> None:
        self._report((id, id not in self._failed, self._moments.pop(id, array("d")).tobytes()))


class Frames:
    """Parses a client's bytes, and calls `frame(opcode, payload, time)` for each frame. Messages are not fragmented."""

    def __init__(self, frame: Callable[[int, bytes, float], None]) -> None:
        self._frame = frame
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Parse more bytes."""
        buffer = self._buffer
        buffer += data
        now, at = time.monotonic(), 0
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1] & 0x7F, at + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                length, start = int.from_bytes(buffer[start : start + size], "big"), start + size
            end = start + 4 + length
            if end > len(buffer):
                break
            payload = apply_mask(bytes(buffer[start + 4 : end]), bytes(buffer[start : start + 4]))
            self._frame(buffer[at] & 0x0F, payload, now)
            at = end
        del buffer[:at]


def _accepted(key: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key.encode() + MAGIC).digest()).decode()  # noqa: S324  # RFC 6455 says SHA-1
    return head_of(101, {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept})
