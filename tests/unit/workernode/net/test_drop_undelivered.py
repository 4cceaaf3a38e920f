"""What happens to those who wait on a connection when the bytes that its peer has not taken are dropped."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.wait import until
from tests.unit.workernode.net.exchanges import LONG
from workernode.net.connection import BYTES_NOT_ACKED, Wire
from workernode.net.hub import Hub
from workernode.net.waiting import sleep


@pytest.fixture
def tcp() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire over TCP and what is at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire = Wire(socket.create_connection(server.getsockname()))
        theirs, _ = server.accept()
    theirs.settimeout(LONG)
    wire.deadline = time.monotonic() + LONG
    yield wire, theirs
    wire.close()
    theirs.close()


def bytes_not_acked(wire: Wire) -> int:
    """Return how many bytes the kernel still has."""
    (count,) = struct.unpack("i", fcntl.ioctl(wire.fileno(), BYTES_NOT_ACKED, bytes(4)))
    return int(count)


def read_all(sock: socket.socket) -> bytes:
    """Return what still comes, to the end or the reset of the connection."""
    pieces = []
    try:
        while piece := sock.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def test_what_the_peer_does_not_take_is_dropped_and_its_sender_gets_an_error(tcp: tuple[Wire, socket.socket]) -> None:
    wire, theirs = tcp
    data, failed = bytes(64 << 20), []

    def send() -> None:
        try:
            wire.sendall(data)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    until(wire.drop_undelivered, LONG, "something that the peer has not taken")
    thread.join(LONG)
    assert [isinstance(error, TimeoutError) for error in failed] == [False]
    assert len(read_all(theirs)) < len(data)


def test_who_waits_to_read_gets_an_error_when_something_is_dropped(tcp: tuple[Wire, socket.socket]) -> None:
    wire, _ = tcp
    wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    while select.select([], [wire], [], 0.1)[1]:
        wire._sock.send(bytes(65536))
    failed: list[bool] = []

    def receive() -> None:
        try:
            wire.receive()
        except OSError as error:
            failed.append(isinstance(error, TimeoutError))

    thread = threading.Thread(target=receive)
    thread.start()
    assert wire.drop_undelivered()
    thread.join(LONG)
    assert failed == [False]


def test_a_task_of_the_hub_gets_an_error_when_another_drops_what_it_sends() -> None:
    hub = Hub()
    failed: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            wire = wires[0]
            wire.deadline = time.monotonic() + LONG
            try:
                wire.sendall(bytes(64 << 20))
            except OSError as error:
                failed.append(isinstance(error, TimeoutError))
            wire.close()
            hub.stop()

        def drop() -> None:
            wires.append(Wire(socket.create_connection(server.getsockname())))
            hub.start(send)
            while not wires[0].drop_undelivered():
                sleep(0.01)

        wires: list[Wire] = []
        hub.start(drop)
        hub.run()
    assert failed == [False]


def test_a_connection_whose_peer_has_taken_everything_goes_on(tcp: tuple[Wire, socket.socket]) -> None:
    wire, theirs = tcp
    wire.sendall(b"first")
    assert theirs.recv(100) == b"first"
    until(lambda: bytes_not_acked(wire) == 0, LONG, "acknowledgement")
    assert not wire.drop_undelivered()
    wire.sendall(b"second")
    assert theirs.recv(100) == b"second"


def test_a_connection_that_is_closed_has_nothing_to_drop(tcp: tuple[Wire, socket.socket]) -> None:
    wire, _ = tcp
    wire.close()
    assert not wire.drop_undelivered()
