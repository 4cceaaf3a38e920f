"""Bytes that go through a pipe into a socket: what is left in the pipe was not sent."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from workernode.net.handover import LARGEST, Handover, bytes_in


class Notes:
    """What was noted, and how many bytes were in the pipe then."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self.seen: list[tuple[int, bool, int]] = []

    def begin(self, size: int, *, is_exact: bool) -> None:
        self.seen.append((size, is_exact, bytes_in(self.reader)))

    def done(self) -> None:
        """Called by Wire."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_what_is_noted_as_exact_is_in_the_pipe_until_the_kernel_has_taken_it(
    pipe: tuple[int, int], pair: tuple[socket.socket, socket.socket]
) -> None:
    notes, (ours, theirs) = Notes(pipe[0]), pair
    assert Handover(*pipe).send(ours.fileno(), b"hello", notes) == b""
    assert notes.seen == [(5, True, 5)]
    assert bytes_in(pipe[0]) == 0
    assert theirs.recv(99) == b"hello"


def test_what_the_socket_does_not_take_at_once_is_left_and_noted_as_not_exact(
    pipe: tuple[int, int], pair: tuple[socket.socket, socket.socket]
) -> None:
    notes, (ours, theirs) = Notes(pipe[0]), pair
    one, sent, left = Handover(*pipe), b"", b""
    while not left:
        left = one.send(ours.fileno(), b"x" * 60_000, notes)
        sent += b"x" * (60_000 - len(left))
    assert notes.seen[-1][1] is False
    assert bytes_in(pipe[0]) == 0
    theirs.settimeout(60)
    got = 0
    while got < len(sent):
        got += len(theirs.recv(1 << 20))
    assert got == len(sent)


def test_more_than_a_pipe_takes_is_not_exact(pipe: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    notes, data = Notes(pipe[0]), b"x" * (LARGEST + 1)
    assert Handover(*pipe).send(pair[0].fileno(), data, notes) == data
    assert notes.seen == [(len(data), False, 0)]


def test_without_splice_nothing_is_exact(
    pipe: tuple[int, int], pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def splice(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "splice", splice, raising=False)
    notes, one = Notes(pipe[0]), Handover(*pipe)
    for _ in range(2):
        assert one.send(pair[0].fileno(), b"hello", notes) == b"hello"
        assert bytes_in(pipe[0]) == 0
    assert [is_exact for _, is_exact, _ in notes.seen] == [True, False, False]


def test_a_broken_connection_is_an_error_and_leaves_an_empty_pipe(
    pipe: tuple[int, int], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, _ = pair
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="Broken pipe"):
        Handover(*pipe).send(ours.fileno(), b"hello", Notes(pipe[0]))
    assert bytes_in(pipe[0]) == 0
