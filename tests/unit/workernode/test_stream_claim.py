"""When a stream may be sent: the grants that its worker asks for, and the lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from workernode import stream_claim
from workernode.errors import ClaimLost
from workernode.protocol import AnswerState, ClaimAsked, Granted, Job, Lease
from workernode.stream_claim import StreamClaim, StreamClaims

FOREVER = float("inf")
BEGIN, END = ClaimAsked(1, is_end=False), ClaimAsked(1, is_end=True)
Answer = Callable[[StreamClaim, ClaimAsked], None]


class Supervisor:
    """Answers what a worker asks, and holds its lease.

    Args:
        answer: called with the claim when something is asked; None: nothing is ever answered.
        overdue: seconds by which the time of the task is over.
    """

    def __init__(self, answer: Answer | None, overdue: float = -600.0) -> None:
        self.asked: list[ClaimAsked] = []
        self.leases = [Lease(FOREVER)]  # what the lease is at each look; the last one stays
        self._answer = answer
        now = time.monotonic()
        self.job = Job(1, 0, b"", 0.0, 0.0, now, now - overdue, 0, is_claimed=True)
        self.claims = StreamClaims(self.ask, lambda: self.lease())
        self.claim = self.open()

    def open(self) -> StreamClaim:
        """Return the claim of the job, which begins anew."""
        claim = self.claims.open(self.job)
        assert claim is not None
        return claim

    def ask(self, asked: ClaimAsked) -> None:
        """A worker asks."""
        self.asked.append(asked)
        if self._answer is not None:
            self._answer(self.claim, asked)

    def lease(self) -> Lease:
        """What it reads in shared memory."""
        return self.leases.pop(0) if len(self.leases) > 1 else self.leases[0]


def grant(claim: StreamClaim, asked: ClaimAsked) -> None:
    """Let the stream be sent."""
    claim.answered(Granted(1, True, asked.is_end))


def deny(claim: StreamClaim, asked: ClaimAsked) -> None:
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
        deny(supervisor.claim, BEGIN)
        return Lease(0.0)

    supervisor.lease = lease  # type: ignore[method-assign]
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


# --- asked ahead ---


@pytest.fixture
def quick() -> Supervisor:
    """Of a worker whose latest stream got its first chunk soon; it grants what is asked."""
    supervisor = Supervisor(grant)
    supervisor.claims.ask_ahead = True
    return supervisor


def test_a_stream_asks_when_upstream_is_asked_and_not_again_when_it_begins(quick: Supervisor) -> None:
    quick.claim.upstream_asked()
    assert quick.asked == [BEGIN]
    quick.claim.wait_for(AnswerState.STARTED)
    quick.claim.check()
    assert quick.asked == [BEGIN]


def test_the_first_stream_of_a_worker_does_not_ask_ahead() -> None:
    supervisor = Supervisor(grant)
    supervisor.claim.upstream_asked()
    assert supervisor.asked == []


def test_streams_ask_ahead_after_one_that_began_soon() -> None:
    supervisor = Supervisor(grant)
    supervisor.claim.upstream_asked()
    supervisor.claim.wait_for(AnswerState.STARTED)
    supervisor.asked.clear()
    supervisor.open().upstream_asked()
    assert supervisor.asked == [BEGIN]


def test_streams_do_not_ask_ahead_where_upstream_takes_long(
    quick: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the node were gone meanwhile, another one could not answer them any more."""
    monkeypatch.setattr(stream_claim, "SOON", -1.0)
    quick.claim.upstream_asked()
    quick.claim.wait_for(AnswerState.STARTED)
    quick.asked.clear()
    quick.open().upstream_asked()
    assert quick.asked == []


def test_an_error_that_was_sent_without_asking_upstream_shows_nothing_of_its_pace() -> None:
    supervisor = Supervisor(grant)
    supervisor.claim.wait_for(AnswerState.STARTED)
    assert not supervisor.claims.ask_ahead


def test_the_first_frame_waits_for_what_was_asked_ahead(quick: Supervisor) -> None:
    quick._answer = deny
    quick.claim.upstream_asked()
    with pytest.raises(ClaimLost):
        quick.claim.wait_for(AnswerState.STARTED)


def test_a_stream_that_asked_ahead_asks_again_when_the_lease_had_run_out_meanwhile(quick: Supervisor) -> None:
    quick.claim.upstream_asked()
    quick.leases = [Lease(FOREVER, lapses=1)]
    quick.claim.wait_for(AnswerState.STARTED)
    quick.claim.check()
    assert quick.asked == [BEGIN, BEGIN]


@pytest.mark.usefixtures("no_patience")
def test_the_end_does_not_leave_with_the_grant_for_the_beginning() -> None:
    def grant_only_the_beginning(claim: StreamClaim, _: ClaimAsked) -> None:
        claim.answered(Granted(1, True, is_end=False))

    supervisor = Supervisor(grant_only_the_beginning, overdue=1.0)
    supervisor.claims.ask_ahead = True
    supervisor.claim.upstream_asked()
    with pytest.raises(ClaimLost):
        supervisor.claim.wait_for(AnswerState.ENDING)
    assert supervisor.asked == [BEGIN, END]


@pytest.mark.usefixtures("no_patience")
def test_a_grant_that_comes_before_anything_was_asked_is_of_an_earlier_run_of_the_job() -> None:
    supervisor = Supervisor(None, overdue=1.0)
    supervisor.claims.answered(Granted(1, True))
    with pytest.raises(ClaimLost):
        supervisor.claim.wait_for(AnswerState.STARTED)


# --- the claims of a worker ---


def test_a_job_that_needs_no_claim_gets_none() -> None:
    supervisor = Supervisor(None)
    assert supervisor.claims.open(replace(supervisor.job, is_claimed=False)) is None


def test_each_claim_gets_its_own_answers() -> None:
    supervisor = Supervisor(grant)
    other = supervisor.claims.open(replace(supervisor.job, number=2))
    assert other is not None
    supervisor.claims.answered(Granted(2, is_granted=False))
    supervisor.claim.wait_for(AnswerState.STARTED)
    with pytest.raises(ClaimLost):
        other.wait_for(AnswerState.STARTED)


def test_an_answer_for_a_job_that_has_ended_is_passed_over() -> None:
    supervisor = Supervisor(None)
    supervisor.claims.close(supervisor.job)
    supervisor.claims.answered(Granted(1, is_granted=False))
    supervisor._answer = grant
    supervisor.claim.wait_for(AnswerState.STARTED)


@pytest.mark.parametrize(
    ("lease", "arrives_within", "ends"),
    [(Lease(FOREVER), 0.0, 0), (Lease(0.0), FOREVER, 0), (Lease(0.0), 0.5, 1)],
    ids=["lasts", "has just ended", "has ended"],
)
def test_the_streams_that_run_drop_what_has_not_arrived_when_the_lease_has_ended(
    monkeypatch: pytest.MonkeyPatch, lease: Lease, arrives_within: float, ends: int
) -> None:
    monkeypatch.setattr(stream_claim, "ARRIVES_WITHIN", arrives_within)
    supervisor = Supervisor(None)
    supervisor.leases = [lease]
    ended: list[str] = []
    supervisor.claim.on_lease_end = lambda: ended.append("a")
    supervisor.claims.tick()
    supervisor.claims.close(supervisor.job)
    supervisor.claims.tick()
    assert ended == ["a"] * ends


@pytest.mark.parametrize("is_end", [False, True])
def test_a_stream_waits_for_an_answer_that_it_asks_for_long_after_the_time_of_its_task(is_end: bool) -> None:
    """Its gateway, or the machine, has kept it so long. Given up at once, its text would be sent again."""
    supervisor = Supervisor(grant)
    supervisor.claim.wait_for(AnswerState.STARTED)
    supervisor.claim._until = time.monotonic() - 100.0
    supervisor._answer = lambda claim, asked: threading.Timer(0.05, grant, (claim, asked)).start()
    if is_end:
        supervisor.claim.wait_for(AnswerState.ENDING)
    else:
        supervisor.leases = [Lease(FOREVER, 1)]
        supervisor.claim.check()
    assert supervisor.asked == [BEGIN, END if is_end else BEGIN]
