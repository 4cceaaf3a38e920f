"""When a stream may be sent: the grants that its worker asks for, and the lease."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from workernode import stream_claim
from workernode.errors import ClaimLost
from workernode.protocol import AnswerState, ClaimAsked, Granted, Job, Lease
from workernode.stream_claim import StreamClaim

FOREVER = float("inf")
BEGIN, END = ClaimAsked(1, is_end=False), ClaimAsked(1, is_end=True)


class Supervisor:
    """Answers what a worker asks, and holds its lease.

    Args:
        answer: called with the claim when something is asked; None: nothing is ever answered.
        overdue: seconds by which the time of the task is over.
    """

    def __init__(self, answer: Callable[[StreamClaim], None] | None, overdue: float = -600.0) -> None:
        self.asked: list[ClaimAsked] = []
        self.leases = [Lease(FOREVER)]  # what the lease is at each look; the last one stays
        self._answer = answer
        now = time.monotonic()
        job = Job(1, 0, b"", 0.0, 0.0, now, now - overdue, 0, is_claimed=True)
        self.claim = StreamClaim(job, self._ask, self._lease)

    def _ask(self, asked: ClaimAsked) -> None:
        self.asked.append(asked)
        if self._answer is not None:
            self._answer(self.claim)

    def _lease(self) -> Lease:
        return self.leases.pop(0) if len(self.leases) > 1 else self.leases[0]


def grant(claim: StreamClaim) -> None:
    """Let the stream be sent."""
    claim.answered(Granted(1, is_granted=True))


def deny(claim: StreamClaim) -> None:
    """Another node has the task."""
    claim.answered(Granted(1, is_granted=False))


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits beyond the time of a task."""
    monkeypatch.setattr(stream_claim, "GRACE", 0.0)


def test_a_stream_asks_once_to_begin_and_once_to_end() -> None:
    supervisor = Supervisor(grant)
    for state in (AnswerState.STARTED, AnswerState.STARTED, AnswerState.ENDING, AnswerState.ENDING):
        supervisor.claim.wait_for(state)
    assert supervisor.asked == [BEGIN, END]


def test_a_stream_that_ends_without_having_begun_asks_for_its_end_only() -> None:
    """It is an error, or so short that all of it leaves at once. After it nothing begins."""
    supervisor = Supervisor(grant)
    supervisor.claim.wait_for(AnswerState.ENDING)
    supervisor.claim.wait_for(AnswerState.STARTED)
    assert supervisor.asked == [END]


@pytest.mark.parametrize("state", [AnswerState.NOT_STARTED, AnswerState.ENDED])
def test_what_sends_nothing_asks_nothing(state: AnswerState) -> None:
    supervisor = Supervisor(None)
    supervisor.claim.wait_for(state)
    assert supervisor.asked == []


@pytest.mark.parametrize("state", [AnswerState.STARTED, AnswerState.ENDING])
def test_a_stream_whose_task_another_node_has_is_not_sent(state: AnswerState) -> None:
    supervisor = Supervisor(deny)
    with pytest.raises(ClaimLost):
        supervisor.claim.wait_for(state)


def test_a_stream_that_was_denied_asks_in_vain_for_its_end() -> None:
    """The worker wants to send its client an error: that is the other node's, too."""
    supervisor = Supervisor(deny)
    with pytest.raises(ClaimLost):
        supervisor.claim.wait_for(AnswerState.STARTED)
    supervisor._answer = grant
    with pytest.raises(ClaimLost):
        supervisor.claim.wait_for(AnswerState.ENDING)


def test_frames_leave_while_the_lease_lasts() -> None:
    supervisor = Supervisor(None)
    supervisor.claim.check()
    assert supervisor.asked == []


def test_frames_wait_until_the_lease_is_renewed() -> None:
    supervisor = Supervisor(None)
    supervisor.leases = [Lease(0.0), Lease(0.0), Lease(FOREVER)]
    supervisor.claim.check()
    assert supervisor.leases == [Lease(FOREVER)]


def test_frames_ask_again_when_the_lease_goes_on_after_it_had_run_out() -> None:
    """Another node may have taken the task over, and the supervisor's word of it may still be on its way."""
    supervisor = Supervisor(grant)
    supervisor.claim.wait_for(AnswerState.STARTED)
    supervisor.leases = [Lease(FOREVER, lapses=1)]
    supervisor.claim.check()
    supervisor.claim.check()
    assert supervisor.asked == [BEGIN, BEGIN]


def test_frames_of_a_task_that_was_taken_over_as_the_lease_had_run_out_never_leave() -> None:
    supervisor = Supervisor(grant)
    supervisor.claim.wait_for(AnswerState.STARTED)
    supervisor.leases, supervisor._answer = [Lease(FOREVER, lapses=1)], deny
    with pytest.raises(ClaimLost):
        supervisor.claim.check()


def test_frames_that_wait_for_the_lease_never_leave_when_the_task_is_taken_over() -> None:
    supervisor = Supervisor(None)

    def lease() -> Lease:
        deny(supervisor.claim)
        return Lease(0.0)

    supervisor.claim._lease = lease
    with pytest.raises(ClaimLost):
        supervisor.claim.check()


@pytest.mark.usefixtures("no_patience")
def test_a_supervisor_that_never_answers_is_not_waited_for_beyond_the_tasks_time() -> None:
    supervisor = Supervisor(None, overdue=1.0)
    with pytest.raises(ClaimLost):
        supervisor.claim.wait_for(AnswerState.STARTED)


@pytest.mark.usefixtures("no_patience")
def test_a_lease_that_is_never_renewed_is_not_waited_for_beyond_the_tasks_time() -> None:
    supervisor = Supervisor(None, overdue=1.0)
    supervisor.leases = [Lease(0.0)]
    with pytest.raises(ClaimLost):
        supervisor.claim.check()


def test_a_task_that_came_too_late_may_send_its_error() -> None:
    supervisor = Supervisor(grant, overdue=60.0)
    supervisor.claim.wait_for(AnswerState.ENDING)
    supervisor.claim.check()
    assert supervisor.asked == [END]
