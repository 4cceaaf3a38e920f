"""A link to a Pulsar broker that loses frames of a kind, holds them back, or is cut, on one side or on both.

It reads the frames of Pulsar's protocol: the size, the size of the command, the command, whose first field is its kind
(pulsar.apache.org/docs/developing-binary-protocol). The broker's address in its answers becomes that of the link, so
that clients stay on it; the two ports have equally many digits.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from devstack.ports import HOST, free_port

SEND, RECEIPT, ACK = 6, 7, 10  # BaseCommand.Type
KIND = 5  # where it stands in a frame, behind the size of the command and the tag of its first field
TIMEOUT = 120.0  # seconds; a bound for a broken run


class PulsarLink:
    """Listens on a port, and carries frames to a broker and back, in threads.

    Args:
        target: the broker's port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._port = free_port()
        self.url = f"pulsar://{HOST}:{self._port}"
        self._listener = socket.create_server((HOST, self._port))
        self._connections: list[_Connection] = []  # those that stand
        self._all: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._is_cut = False
        self._lost_kind = 0
        self._changed = threading.Condition()
        self._lost = 0
        self._held: list[tuple[socket.socket, bytes]] = []
        self._run(self._accept)

    def lose(self, kind: int) -> None:
        """Carry no frames of this kind from now on; 0: lose none."""
        self._lost_kind, self._lost = kind, 0

    def wait_lost(self, frames: int) -> None:
        """Wait until so many were lost."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._lost >= frames, TIMEOUT), f"{self._lost} frames were lost"

    def hold(self, kind: int) -> None:
        """Hold back frames of this kind on the connections that there are, until `release`."""
        for connection in self._connections:
            connection.held_kind = kind

    def wait_held(self, frames: int) -> None:
        """Wait until so many are held back."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._held) >= frames, TIMEOUT), f"{len(self._held)} are held"

    def release(self) -> None:
        """Carry what was held back, in its order, and hold nothing more."""
        for connection in self._connections:
            connection.held_kind = 0
        with self._changed:
            for target, frame in self._held:
                with contextlib.suppress(OSError):  # the broker has closed that connection
                    target.sendall(frame)
            self._held.clear()

    def cut(self, half: bool = False) -> None:
        """Close the connections, and refuse others until `mend`.

        Args:
            half: of a connection with frames that are held back the broker does not notice it, and gets them later.
        """
        self._is_cut = True
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.cut(half and bool(connection.held_kind))

    def mend(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    def close(self) -> None:
        """Accept no more, and end what there is."""
        _shut(self._listener)  # ends `accept`, which `close` alone does not
        for connection in self._all:
            connection.cut(half=False)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        for connection in self._all:
            connection.client.close()
            connection.broker.close()

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed by `close`
            while True:
                client, _ = self._listener.accept()
                if self._is_cut:
                    client.close()
                    continue
                connection = _Connection(client, socket.create_connection((HOST, self._target)))
                self._connections.append(connection)
                self._all.append(connection)
                self._run(self._carry, connection, client, connection.broker)
                self._run(self._carry, connection, connection.broker, client)

    def _carry(self, connection: _Connection, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(source):
                kind = frame[4 + KIND]
                if source is connection.broker:
                    frame = frame.replace(f"{HOST}:{self._target}".encode(), f"{HOST}:{self._port}".encode())
                with self._changed:
                    if kind == self._lost_kind:
                        self._lost += 1
                    elif kind == connection.held_kind:
                        self._held.append((target, frame))
                    else:
                        target.sendall(frame)
                    self._changed.notify_all()
        connection.cut(connection.is_half)


class _Connection:
    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.client, self.broker = client, broker
        self.held_kind = 0
        self.is_half = False

    def cut(self, half: bool) -> None:
        self.is_half = half
        _shut(self.client)
        if not half:
            _shut(self.broker)


def _frame(source: socket.socket) -> bytes:
    """The next frame; b"" at the end."""
    size = _read(source, 4)
    rest = _read(source, struct.unpack(">I", size)[0]) if size else b""
    return size + rest if rest else b""


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
