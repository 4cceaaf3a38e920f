"""Messages between supervisor and worker arrive whole and unchanged, however a pipe cuts them."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.pipe import Outbox, Unpacker, pack
from workernode.protocol import (
    CallFailed,
    Decision,
    Durations,
    FaultInfo,
    FaultKind,
    FromWorker,
    Hold,
    Job,
    Outcome,
    RateLimitReport,
    Ready,
    Rejection,
    Stop,
    Target,
)


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


ERROR = {"error": {"message": "no", "type": "x", "param": None, "code": 5}}
FAULT = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "refused", 1.5)
MESSAGES = {
    "job": Job(1, 2, b"\x00\xff", 1.5, 2.5, 3.5, 4.5, 3),
    "job_with_a_rejection": Job(1, 2, b"", 1, 2, 3, 4, 0, Rejection("gave_up", Decision.ACK, ERROR, 503, "why")),
    "hold": Hold(5.0, 2.0),
    "target": Target("http://127.0.0.1/v1", "key"),
    "target_without_a_key": Target("http://127.0.0.1/v1", None),
    "stop": Stop(),
    "ready": Ready(77),
    "report": RateLimitReport(1.0, FaultKind.RAMP, 0.5, 2.0, 60, 59, 1.0, None, None, None, 3),
    "call_failed": CallFailed("id", 1.0, FAULT),
    "hold_without_retries": Hold(5.0, 2.0, no_retries=True),
    "outcome": Outcome(
        1, "id", Decision.NAK, "key_refused", b"{}", FAULT, False, "why", ERROR, 2, 1.0, True, 3, 4,
        durations=Durations(0.1, None, 0.3, 0.4, None, 0.6),
    ),
    "big_integer": Outcome(1, "id", Decision.NAK, "s", b"{}", client_error={"code": 2**70}),
    "half_a_surrogate_pair": Outcome(1, "id", Decision.NAK, "s", b"{}", reason="\ud83d"),
    "infinite": Outcome(1, "id", Decision.NAK, "s", b"{}", client_error={"code": float("inf")}),
    "deep": Outcome(1, "id", Decision.NAK, "s", b"{}", client_error=json.loads('{"a":' * 90 + "1" + "}" * 90)),
}  # fmt: skip


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_arrives_as_it_was_sent(message: object, check: bool) -> None:
    (arrived,) = Unpacker[object]().feed(pack(message, check=check))
    assert arrived == message
    assert type(arrived) is type(message)


def test_a_message_with_a_value_of_a_wrong_type_can_be_read_all_the_same() -> None:
    """A figure that upstream sent as `true`, say: the supervisor's loop must not fail over it."""
    message = Outcome(1, "id", Decision.ACK, "answered", b"{}", prompt_tokens=True)
    assert Unpacker[object]().feed(pack(message, check=True)) == [message]
