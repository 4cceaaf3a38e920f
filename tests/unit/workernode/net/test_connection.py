"""Every wait on a connection ends: by data, a deadline, a silence, or by what happens on the watched connection."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.workernode.net.exchanges import LONG
from workernode.net.connection import Wire
from workernode.net.origin import Origin


class Ended(Exception):
    """What a watch raises to end a wait."""


class Watched:
    """A watch that ends the wait in one way or another; see Watch in workernode/net/connection.py."""

    def __init__(self, fd: int = -1, due: float = float("inf"), opens: int = -1) -> None:
        self.fd = fd
        self.due = due
        self.opens = opens  # what `fileno` gives after the next tick
        self.ticks = 0
        self.reads = 0

    def fileno(self) -> int:
        return self.fd

    def readable(self) -> None:
        self.reads += 1
        raise Ended

    def tick(self) -> None:
        self.ticks += 1
        self.fd = self.opens
        self.due = time.monotonic() + 0.02 if self.opens < 0 else float("inf")
        if self.ticks == 3:
            raise Ended


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire and what is at its other end."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    wire.deadline = time.monotonic() + LONG
    yield wire, theirs
    wire.close()
    theirs.close()


def test_what_is_there_is_read_without_waiting(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    theirs.send(b"hello")
    assert wire.receive() == b"hello"


def test_a_wait_ends_with_data(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    threading.Timer(0.02, theirs.send, [b"late"]).start()
    assert wire.receive() == b"late"


def test_the_end_of_the_connection_is_read_as_nothing(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    theirs.close()
    assert wire.receive() == b""


def test_an_impatient_read_does_not_wait(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    wire.patient = False
    assert wire.receive() is None


def test_a_wait_ends_at_the_deadline(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    wire.deadline = time.monotonic() + 0.05
    with pytest.raises(TimeoutError, match="no time is left"):
        wire.receive()
    assert time.monotonic() >= wire.deadline


def test_a_silence_ends_a_wait(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    wire.silence = 0.05
    with pytest.raises(TimeoutError, match=r"silent for 0\.05 s"):
        wire.receive()


def test_data_breaks_the_silence_and_not_the_deadline(pair: tuple[Wire, socket.socket]) -> None:
    """One byte now and then keeps a connection alive for ever, but for the deadline."""
    wire, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            theirs.send(b"x")

    wire.silence = LONG
    wire.deadline = time.monotonic() + 0.1
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(TimeoutError, match="no time is left"):
            [wire.receive() for _ in iter(int, 1)]
    finally:
        stop.set()
        thread.join()


def test_a_peer_that_sends_without_a_pause_cannot_outlast_the_deadline(pair: tuple[Wire, socket.socket]) -> None:
    """No read ever waits, so that no wait can end by the deadline."""
    wire, theirs = pair
    theirs.sendall(b"0" * 1000)
    wire.deadline = time.monotonic()
    with pytest.raises(TimeoutError):
        wire.receive()


def test_a_send_to_a_peer_that_does_not_read_ends_at_the_deadline(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    wire.deadline = time.monotonic() + 0.05
    with pytest.raises(TimeoutError, match="no time is left"):
        wire.sendall(b"x" * (8 << 20))


def test_a_send_to_a_slow_reader_arrives_whole(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    got: list[bytes] = []

    def read() -> None:
        while piece := theirs.recv(50_000):
            got.append(piece)

    thread = threading.Thread(target=read)
    thread.start()
    data = bytes(range(256)) * 10_000
    wire.sendall(data)
    wire.close()
    thread.join()
    assert b"".join(got) == data


def test_a_connection_that_breaks_is_an_error(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe"):
        wire.sendall(b"x" * (8 << 20))


def test_a_kept_connection_is_stale_once_it_is_closed_or_says_something(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    assert not wire.stale()
    theirs.send(b"x")
    assert wire.stale()
    wire.receive()
    assert not wire.stale()
    theirs.close()
    assert wire.stale()


def test_what_arrives_on_the_watched_connection_is_looked_at(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    other, theirs = socket.socketpair()
    wire.watch = Watched(other.fileno())
    threading.Timer(0.02, theirs.close).start()
    with pytest.raises(Ended):
        wire.receive()
    other.close()


def test_a_watch_is_called_when_it_is_due(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    wire.watch = watch = Watched(due=0.0)
    with pytest.raises(Ended):
        wire.receive()
    assert watch.ticks == 3


def test_a_connection_that_a_watch_opens_during_the_wait_is_watched_as_well(pair: tuple[Wire, socket.socket]) -> None:
    """The gateway could not be reached at first: its client can leave all the same while upstream is silent."""
    wire, _ = pair
    other, theirs = socket.socketpair()
    wire.watch = watch = Watched(due=0.0, opens=other.fileno())
    threading.Timer(0.05, theirs.close).start()
    with pytest.raises(Ended):
        wire.receive()
    assert (watch.ticks, watch.reads) == (1, 1)
    other.close()


def test_a_watch_does_not_outlive_its_wait(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    other, others = socket.socketpair()
    wire.watch = watch = Watched(other.fileno())
    threading.Timer(0.02, theirs.send, [b"x"]).start()
    assert wire.receive() == b"x"
    wire.watch = None
    others.close()
    wire.silence = 0.05
    with pytest.raises(TimeoutError):
        wire.receive()
    assert watch.reads == 0
    other.close()


# --- connecting ---


def test_a_refused_connection_is_an_error() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            Wire.connect(Origin(False, "127.0.0.1", holder.getsockname()[1]), LONG, None)


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_a_name_that_cannot_be_resolved_is_an_error_of_the_connection(host: str) -> None:
    """Python raises UnicodeError for these, which nobody would catch who waits for a connection to fail."""
    with pytest.raises(socket.gaierror, match="cannot be resolved"):
        Wire.connect(Origin(False, host, 80), LONG, None)


def test_a_handshake_without_an_answer_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        Wire.connect(Origin(True, "127.0.0.1", silent.getsockname()[1]), 0.1, ssl.create_default_context())


def test_tls_is_verified(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    fake, authority = tls_upstream
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire.connect(Origin(True, "127.0.0.1", fake.port), LONG, ssl.create_default_context())
    Wire.connect(Origin(True, "127.0.0.1", fake.port), LONG, ssl.create_default_context(cafile=str(authority))).close()


def test_waits_end_over_tls_as_well(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    fake, authority = tls_upstream
    wire = Wire.connect(Origin(True, "127.0.0.1", fake.port), LONG, ssl.create_default_context(cafile=str(authority)))
    wire.silence = 0.05
    with pytest.raises(TimeoutError, match="silent"):
        wire.receive()
    wire.silence = LONG
    wire.sendall(b"GET /health HTTP/1.1\r\n\r\n")
    assert b"200 OK" in (wire.receive() or b"")
    wire.patient = False
    assert wire.receive() is None
    wire.close()
    until(lambda: not fake.open_connections, LONG, "end of the connection")


def test_no_wait_is_left_behind(pair: tuple[Wire, socket.socket]) -> None:
    """A poll object keeps what was registered: after a wait for sending, one for reading must not end at once."""
    wire, theirs = pair
    wire.deadline = time.monotonic() + 0.05
    with pytest.raises(TimeoutError):
        wire.sendall(b"x" * (8 << 20))
    wire.deadline = time.monotonic() + LONG
    while select.select([theirs], [], [], 0)[0]:
        theirs.recv(1 << 20)
    wire.silence = 0.05
    with pytest.raises(TimeoutError, match="silent"):
        wire.receive()
