"""Messages between supervisor and worker arrive whole and unchanged, however a pipe cuts them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.pipe import Unpacker, pack
from workernode.protocol import (
    AnswerBegun,
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


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(1, 5000))
def test_messages_come_out_whole_however_the_pipe_cuts_them(sizes: list[int], cut: int) -> None:
    sent: list[FromWorker] = [outcome(number, size) for number, size in enumerate(sizes)]
    data = b"".join(map(pack, sent))
    unpacker: Unpacker[FromWorker] = Unpacker()
    got = [each for start in range(0, len(data), cut) for each in unpacker.feed(data[start : start + cut])]
    assert got == sent


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
    "answer_begun": AnswerBegun(1.5),
    "hold_that_asks_for_reports": Hold(5.0, 2.0, reports_begun=True),
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
