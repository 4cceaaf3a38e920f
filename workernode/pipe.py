"""Messages between the supervisor and a worker, over pipes: each goes whole, whoever is slow or killed meanwhile."""

from __future__ import annotations

import os
import pickle
import struct
import threading
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from workernode.protocol import FromWorker

LENGTH = struct.Struct("!I")  # before each message: the number of bytes that follow
PIECE = 65536  # bytes read at once

T = TypeVar("T")


def pack(message: object) -> bytes:
    """Return a message of workernode/protocol.py as it goes through a pipe."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


class Unpacker(Generic[T]):
    """The reading end of a pipe: pieces of bytes in, messages out. It never waits for the rest of a message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[T]:
        """Return the messages that are whole with this piece."""
        buffer = self._buffer
        buffer += piece
        messages: list[T] = []
        start = 0
        while len(buffer) - start >= LENGTH.size:
            end = start + LENGTH.size + LENGTH.unpack_from(buffer, start)[0]
            if end > len(buffer):
                break
            messages.append(pickle.loads(memoryview(buffer)[start + LENGTH.size : end]))  # noqa: S301  # our own process
            start = end
        del buffer[:start]
        return messages


class Outbox:
    """A worker's writing end. Any thread may write."""

    def __init__(self, connection: Connection) -> None:
        self._fd = connection.fileno()
        self._lock = threading.Lock()

    def put(self, message: FromWorker) -> None:
        """Write the message; wait while the supervisor is slow to read."""
        data = memoryview(pack(message))
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]
