"""Messages between supervisor and worker arrive whole and unchanged, however a pipe cuts them."""

from __future__ import annotations

import multiprocessing
import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from workernode.pipe import Outbox, Unpacker, pack
from workernode.protocol import Decision, FromWorker, Outcome


def outcome(number: int, size: int = 0) -> Outcome:
    return Outcome(number, f"id-{number}", Decision.ACK, "answered", b"x" * size)


def read_all(fd: int, pieces: list[bytes], size: int = 65536) -> None:
    while piece := os.read(fd, size):
        pieces.append(piece)


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(1, 5000))
def test_messages_come_out_whole_however_the_pipe_cuts_them(sizes: list[int], cut: int) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    pieces: list[bytes] = []
    thread = threading.Thread(target=read_all, args=(reader.fileno(), pieces, cut))
    thread.start()
    outbox = Outbox(writer)
    sent: list[FromWorker] = [outcome(number, size) for number, size in enumerate(sizes)]
    for message in sent:
        outbox.put(message)
    writer.close()
    thread.join()
    reader.close()
    unpacker = Unpacker()
    assert [message for piece in pieces for message in unpacker.feed(piece)] == sent


def test_messages_of_many_threads_do_not_mix() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    pieces: list[bytes] = []
    drain = threading.Thread(target=read_all, args=(reader.fileno(), pieces))
    drain.start()
    outbox = Outbox(writer)
    senders = [
        threading.Thread(target=lambda start=start: [outbox.put(outcome(start + n, 20_000)) for n in range(10)])
        for start in range(0, 80, 10)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    writer.close()
    drain.join()
    reader.close()
    unpacker = Unpacker()
    got = [message for piece in pieces for message in unpacker.feed(piece)]
    assert sorted(message.number for message in got if isinstance(message, Outcome)) == list(range(80))


def test_half_a_message_is_not_returned_before_its_rest_has_come() -> None:
    """A worker may be killed while it writes: the messages that it had written whole count."""
    whole = pack(outcome(1))
    unpacker = Unpacker()
    assert unpacker.feed(whole + whole[:-1]) == [outcome(1)]
    assert unpacker.feed(b"") == []
    assert unpacker.feed(whole[-1:]) == [outcome(1)]
