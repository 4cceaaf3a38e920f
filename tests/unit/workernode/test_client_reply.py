"""What the client of one delivery gets, over a gateway that notes what it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from workernode.client_reply import ClientReply
from workernode.errors import ClientGone, GatewayConnectionLost
from workernode.facts import Facts
from workernode.gateway import AnswerResult
from workernode.protocol import AnswerState, Job

ENDPOINT: Any = None  # the fake gateway does not look at it
ERROR = {"error": {"message": "no"}}
RAW = json.dumps(ERROR, separators=(",", ":")).encode()


class Gateway:
    """Gateways and a stream in one. `outcome` is how an end or a POST goes: a result, or an exception."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.outcome: AnswerResult | Exception = AnswerResult.TAKEN
        self.held = (b"frame",)

    def stream(self, endpoint: Any, request_id: str, received: float, until: float, show: Any, may_send: Any) -> Any:
        self.calls.append("open")
        self.show: Callable[[AnswerState], None] = show
        return self

    def post(self, endpoint: Any, request_id: str, raw: bytes, deadline: float, once: bool) -> AnswerResult:
        self.calls.append(("post", raw))
        return self._result()

    def end(self, error: bytes | None, once: bool) -> AnswerResult:
        self.calls.append(("end", error))
        return self._result()

    def end_over_new_connection(self, error: bytes) -> AnswerResult:
        self.calls.append(("new connection", error))
        return AnswerResult.TAKEN

    def release(self) -> None:
        self.calls.append("release")

    def abort(self) -> None:
        self.calls.append("abort")

    def _result(self) -> AnswerResult:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Bed:
    """A reply over a fake gateway; the states that the supervisor was shown."""

    def __init__(self) -> None:
        self.gateway, self.shown = Gateway(), list[AnswerState]()
        self.facts = Facts(Job(1, 0, b"", 0.0, 0.0, 0.0, 60.0, 0))
        gateway: Any = self.gateway
        self.reply = ClientReply(self.facts, gateway, self.shown.append, None)

    def send_error(self, *, stream: bool) -> list[Any]:
        self.reply.send_error(ENDPOINT, "id", stream, ERROR)
        return self.gateway.calls


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_an_error_is_posted_or_ends_a_stream(bed: Bed) -> None:
    assert bed.send_error(stream=False) == [("post", RAW)]
    assert bed.send_error(stream=True)[1:] == ["open", ("end", RAW)]
    assert bed.facts.answered_at is not None


def test_an_error_ends_the_stream_that_has_begun(bed: Bed) -> None:
    bed.reply.open(ENDPOINT, "id")
    assert bed.send_error(stream=True) == ["open", ("end", RAW)]


def test_an_error_goes_over_a_new_connection_if_that_of_the_stream_breaks(bed: Bed) -> None:
    bed.gateway.outcome = GatewayConnectionLost("reset")
    assert bed.send_error(stream=True) == ["open", ("end", RAW), ("new connection", RAW)]
    assert bed.facts.answered_at is not None


def test_a_client_that_is_gone_gets_no_error(bed: Bed) -> None:
    bed.gateway.outcome = ClientGone("closed")
    assert bed.send_error(stream=True) == ["open", ("end", RAW), "abort"]
    assert bed.facts.answered_at is None


def test_an_answer_that_did_not_arrive_is_kept_and_has_no_time(bed: Bed) -> None:
    bed.gateway.outcome = AnswerResult.UNREACHABLE
    noted: list[Any] = []
    bed.reply.undelivered.keep = lambda *about: noted.append(about)  # type: ignore[method-assign]
    assert bed.reply.post(ENDPOINT, "id", b"answer") is AnswerResult.UNREACHABLE
    assert bed.reply.end(ENDPOINT, bed.reply.open(ENDPOINT, "id")) is AnswerResult.UNREACHABLE
    assert noted == [(ENDPOINT, False, [b"answer"]), (ENDPOINT, False, (b"frame",))]
    assert bed.facts.answered_at is None


def test_the_supervisor_is_shown_how_much_leaves(bed: Bed) -> None:
    bed.reply.open(ENDPOINT, "id")
    bed.gateway.show(AnswerState.STARTED)
    assert bed.shown == [bed.reply.answer_state] == [AnswerState.STARTED]


def test_the_state_is_not_shown_before_claim_and_lease_let_the_answer_leave(bed: Bed) -> None:
    """A worker that dies while an end waits has not sent it (seed 123001673)."""
    gateway: Any = bed.gateway
    waits = {"wait_for": lambda self, state: bed.shown.append("claim"), "check": lambda self: bed.shown.append("lease")}
    claim: Any = type("Claim", (), waits)()
    gateway.drop_undelivered = "drop"
    shown: list[Any] = bed.shown  # type: ignore[assignment]
    reply = ClientReply(bed.facts, gateway, shown.append, claim)
    reply.open(ENDPOINT, "id")
    assert claim.on_lease_end == "drop"
    waited = ["claim", "lease"]
    for state, before in [
        (AnswerState.STARTED, waited),
        (AnswerState.ENDING, waited),
        (AnswerState.STARTED, ["claim"]),  # the end could not be sent
        (AnswerState.ENDED, ["claim"]),
    ]:
        shown.clear()
        bed.gateway.show(state)
        assert shown == [*before, state]


def test_what_was_aborted_is_not_used_again(bed: Bed) -> None:
    bed.reply.release()
    bed.reply.abort()
    assert bed.gateway.calls == []
    bed.reply.open(ENDPOINT, "id")
    bed.reply.abort()
    bed.reply.release()
    assert bed.gateway.calls == ["open", "abort"]
