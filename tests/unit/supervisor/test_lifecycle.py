"""The node's way from its start to its end, over fakes: signals and moments in, calls out."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from supervisor.events import Event, StreamsEnded
from supervisor.lifecycle import CLAIMS_LIMIT, ENDS_INTERVAL, ENDS_LIMIT, RECORDS_LIMIT, STREAMS_LIMIT, Lifecycle
from supervisor.states import NodeState
from workernode.protocol import AnswerState, FromWorker, Job, Outcome, Ready

DRAIN_TIMEOUT = 30.0


class Fakes:
    """Loop, pool, dispatcher and node in one; what is called is noted."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.pending: list[int] = []
        self.in_flight = 0
        self.begun: list[Job] = []
        self.model_stopped = True
        self.ends_leave = False
        self.is_claimed = True  # begun streams may be ended here
        self.lifecycle = Lifecycle(DRAIN_TIMEOUT, self, self, self, self.end_streams, self)  # type: ignore[arg-type]

    # loop

    def signals(self) -> Iterator[int]:
        while self.pending:
            yield self.pending.pop(0)

    def post(self, event: Event) -> None:
        self.calls.append(event)

    # pool

    def is_ending(self) -> bool:
        return self.ends_leave

    def kill(self) -> tuple[list[FromWorker], dict[int, AnswerState]]:
        self.calls.append("kill")
        return [Ready(7)], {1: AnswerState.STARTED}

    # dispatcher

    def __len__(self) -> int:
        return self.in_flight

    def nak_queued(self) -> None:
        pass

    def request_ids(self) -> list[str]:
        return ["id"] * self.in_flight

    def send_back(self, now: float, everything: bool) -> None:
        self.calls.append("send back")

    def decide_rest(self, states: dict[int, AnswerState]) -> list[Job]:
        assert states == {1: AnswerState.STARTED}
        self.calls.append("decide")
        return self.begun

    @property
    def claims(self) -> Fakes:
        return self

    def may_end(self, jobs: list[Job], *, at_once: bool) -> list[Job] | None:
        return jobs if self.is_claimed else [] if at_once else None

    def streams_ended(self, outcomes: Sequence[Outcome]) -> None:
        self.calls.append("streams ended")

    # node

    def end_streams(self, jobs: Sequence[Job], done: Any) -> None:
        self.calls.append("end streams")
        self.done = done

    def on_worker_message(self, message: FromWorker) -> None:
        self.calls.append(message)

    def drain_begins(self, limit_s: float) -> None:
        self.calls.append(("drain", limit_s))

    def stop_model(self, now: float) -> None:
        self.calls.append("stop model")

    def is_model_stopped(self) -> bool:
        return self.model_stopped

    # what the test does

    def turn(self, now: float, *signals: int) -> NodeState:
        self.pending += signals
        self.lifecycle.on_signals(now)
        self.lifecycle.step(now)
        return self.lifecycle.state


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


def test_an_idle_node_stops_at_once(fakes: Fakes) -> None:
    fakes.lifecycle.ready()
    assert fakes.turn(0.0) is NodeState.SERVING
    assert fakes.turn(1.0, signal.SIGTERM) is NodeState.STOPPED
    assert fakes.calls == [("drain", DRAIN_TIMEOUT), "send back", "stop model"]
    assert not fakes.lifecycle.is_forced


def test_a_node_that_is_not_ready_yet_can_be_stopped(fakes: Fakes) -> None:
    assert fakes.turn(1.0, signal.SIGINT) is NodeState.STOPPED


def test_it_waits_for_the_local_model_server(fakes: Fakes) -> None:
    fakes.model_stopped = False
    assert fakes.turn(1.0, signal.SIGTERM) is NodeState.STOPPING
    fakes.model_stopped = True
    assert fakes.turn(2.0) is NodeState.STOPPED


def test_tasks_in_flight_are_finished_within_the_drain(fakes: Fakes) -> None:
    fakes.in_flight = 2
    assert fakes.turn(1.0, signal.SIGTERM) is NodeState.DRAINING
    assert fakes.lifecycle.next_due == 31.0
    assert fakes.turn(30.0) is NodeState.DRAINING
    fakes.in_flight = 0
    assert fakes.turn(30.5) is NodeState.STOPPED
    assert "kill" not in fakes.calls


def test_what_outlasts_the_drain_is_decided_once_and_its_records_are_waited_for(fakes: Fakes) -> None:
    fakes.in_flight = 2
    fakes.turn(1.0, signal.SIGTERM)
    assert fakes.turn(31.0) is NodeState.DRAINING
    assert fakes.calls[1:] == ["kill", Ready(7), "decide"]
    assert fakes.lifecycle.next_due == 31.0 + RECORDS_LIMIT
    assert fakes.turn(32.0) is NodeState.DRAINING
    assert fakes.calls.count("kill") == 1
    assert fakes.turn(31.0 + RECORDS_LIMIT) is NodeState.STOPPED  # although two records were never stored


def test_no_worker_is_killed_at_once_while_it_sends_the_end_of_a_stream(fakes: Fakes) -> None:
    """Its client got no end: it could have left, so that nobody else sent it (1 of 152 streams in 19 drains)."""
    fakes.in_flight, fakes.ends_leave = 2, True
    fakes.turn(1.0, signal.SIGTERM)
    assert fakes.turn(31.0) is NodeState.DRAINING
    assert fakes.lifecycle.next_due == 31.0 + ENDS_INTERVAL
    fakes.turn(31.1)
    assert "kill" not in fakes.calls
    fakes.ends_leave = False
    fakes.turn(31.2)
    assert fakes.calls.count("kill") == 1


def test_an_end_that_does_not_leave_is_not_waited_for_long(fakes: Fakes) -> None:
    """The gateway does not read."""
    fakes.in_flight, fakes.ends_leave = 2, True
    fakes.turn(1.0, signal.SIGTERM)
    fakes.turn(31.0)
    fakes.turn(31.0 + ENDS_LIMIT)
    assert fakes.calls.count("kill") == 1


def test_after_a_second_signal_no_end_is_waited_for(fakes: Fakes) -> None:
    fakes.in_flight, fakes.ends_leave = 2, True
    fakes.turn(1.0, signal.SIGTERM)
    fakes.turn(31.0)
    assert fakes.turn(31.1, signal.SIGTERM) is NodeState.STOPPED


def test_begun_streams_are_ended_before_it_stops(fakes: Fakes) -> None:
    fakes.in_flight, fakes.begun = 1, [Job(1, -1, b"{}", 0.0, 0.0, 0.0, 1.0, 0)]
    fakes.turn(1.0, signal.SIGTERM)
    assert fakes.turn(31.0) is NodeState.DRAINING
    assert fakes.lifecycle.next_due == 31.0 + STREAMS_LIMIT
    fakes.done([])
    assert fakes.calls[-1] == StreamsEnded([])
    fakes.lifecycle.streams_ended(33.0, [])
    assert fakes.turn(33.0) is NodeState.DRAINING
    fakes.in_flight = 0
    assert fakes.turn(34.0) is NodeState.STOPPED


def test_begun_streams_are_not_ended_without_their_claims(fakes: Fakes) -> None:
    """Another node may have taken them over, or will: it ends them."""
    fakes.in_flight, fakes.begun, fakes.is_claimed = 1, [Job(1, -1, b"{}", 0.0, 0.0, 0.0, 1.0, 0)], False
    fakes.turn(1.0, signal.SIGTERM)
    assert fakes.turn(31.0) is NodeState.DRAINING
    assert fakes.lifecycle.next_due == 31.0 + CLAIMS_LIMIT
    assert fakes.turn(31.0 + CLAIMS_LIMIT) is NodeState.DRAINING
    assert "end streams" not in fakes.calls
    assert fakes.lifecycle.next_due == 31.0 + CLAIMS_LIMIT + RECORDS_LIMIT


@pytest.mark.parametrize("moment", ["drain", "streams", "model"])
def test_a_second_signal_ends_it_at_any_moment(moment: str, fakes: Fakes) -> None:
    fakes.model_stopped = False
    fakes.in_flight, fakes.begun = 1, [Job(1, -1, b"{}", 0.0, 0.0, 0.0, 1.0, 0)]
    fakes.turn(1.0, signal.SIGTERM)
    if moment == "streams":
        fakes.turn(31.0)
        assert fakes.calls[-1] == "end streams"
    elif moment == "model":
        fakes.in_flight = 0
        assert fakes.turn(2.0) is NodeState.STOPPING
    assert fakes.turn(32.0, signal.SIGTERM) is NodeState.STOPPED
    assert fakes.lifecycle.is_forced
