"""What the pool does with slots and jobs, and with its processes when it stops: events in, calls out."""

from __future__ import annotations

import pytest

from tests.unit.supervisor.workers.harness import FOR_EVER, Harness, outcome
from workernode.protocol import AnswerState, Job, Target


def test_slots_are_shared_as_evenly_as_possible() -> None:
    harness = Harness(count=3, slots=8)
    harness.pool.start()
    assert [len(process.answer_states) for process in harness.processes] == [3, 3, 2]


def test_a_worker_that_has_not_reported_ready_gets_no_job() -> None:
    harness = Harness()
    harness.pool.start()
    assert harness.pool.free_slots() == 0
    assert harness.submit(1) is None


def test_a_job_goes_to_the_worker_with_most_free_slots(harness: Harness) -> None:
    assert [harness.submit(number) for number in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert harness.submit(4) is None
    (got,) = [message for message in harness.processes[1].got if isinstance(message, Job) and message.number == 3]
    assert got.slot == 1


def test_a_slot_is_free_again_when_its_job_has_ended(harness: Harness) -> None:
    for number in range(4):
        harness.submit(number)
    harness.pool.free(1, 0)
    assert harness.pool.free_slots() == 1
    harness.pool.free(1, 0)  # twice counts once
    assert harness.pool.free_slots() == 1
    assert harness.submit(9) == (1, 0)


def test_the_answer_state_of_a_slot_starts_anew_with_each_job(harness: Harness) -> None:
    harness.submit(1)
    harness.processes[0].answer_states[0] = AnswerState.ENDED
    harness.pool.free(0, 0)
    harness.submit(2)
    assert harness.processes[0].answer_states[0] == AnswerState.NOT_STARTED


@pytest.mark.parametrize("state", AnswerState)
def test_an_end_that_is_leaving_a_worker_is_seen(harness: Harness, state: AnswerState) -> None:
    harness.submit(1)
    harness.submit(2)
    harness.processes[1].answer_states[0] = state
    assert harness.pool.is_ending() is (state is AnswerState.ENDING)
    harness.pool.free(1, 0)
    assert not harness.pool.is_ending()


def test_a_job_that_runs_alone_waits_until_a_worker_is_empty(harness: Harness) -> None:
    harness.submit(1)
    harness.submit(2)
    assert not harness.pool.reserve()  # a worker is reserved, and still has a job
    assert harness.pool.free_slots() == 1  # the other worker's
    harness.pool.free(0, 0)
    assert harness.pool.reserve()
    assert harness.submit(3, alone=True) == (0, 0)
    assert harness.submit(4) == (1, 1)
    assert harness.submit(5) is None  # the lone job has its worker for itself
    harness.pool.release()
    assert harness.submit(5) is None
    harness.pool.free(0, 0)
    harness.pool.release()
    assert harness.submit(5) == (0, 0)


def test_a_worker_that_was_being_emptied_takes_jobs_again_when_no_job_is_to_run_alone(harness: Harness) -> None:
    harness.submit(1)
    harness.submit(2)
    assert not harness.pool.reserve()
    harness.pool.release()
    assert harness.pool.free_slots() == 2


def test_nothing_can_be_reserved_without_a_ready_worker() -> None:
    assert not Harness().pool.reserve()


def test_a_target_reaches_all_workers_and_those_to_come(harness: Harness) -> None:
    target = Target("http://upstream", "key")
    harness.pool.set_target(target)
    harness.die(0)
    harness.pool.check(harness.now)
    assert [process.got for process in harness.processes] == [[target], [target], [target]]


def test_killed_workers_leave_what_was_in_their_pipes_and_how_far_each_answer_was(harness: Harness) -> None:
    for number in (1, 2, 3):
        harness.submit(number)
    first, second = harness.processes
    first.write(outcome(1))
    kill = first.kill

    def kill_and_answer() -> None:
        """The worker sends more until the signal reaches it."""
        kill()
        first.answer_states[1] = AnswerState.STARTED

    first.kill = kill_and_answer  # type: ignore[method-assign]
    last, states = harness.pool.kill()
    assert last == [outcome(1)]
    assert states == {1: AnswerState.NOT_STARTED, 2: AnswerState.NOT_STARTED, 3: AnswerState.STARTED}
    assert (first.closed, second.closed) == (1, 1)
    assert harness.watched == []
    assert harness.pool.next_check() == FOR_EVER


@pytest.mark.parametrize("stops", [True, False], ids=["stops by itself", "has to be killed"])
def test_stop_leaves_no_process_and_no_successor(harness: Harness, stops: bool) -> None:
    harness.die(0)
    harness.processes[1].stops = stops
    harness.pool.stop(2.0)
    assert harness.processes[1].killed == (not stops)
    assert harness.processes[1].closed == 1
    assert not harness.watched
    assert harness.pool.next_check() == FOR_EVER
    harness.pool.stop(2.0)  # again is allowed


def test_figures_count_only_workers_that_take_jobs(harness: Harness) -> None:
    assert (harness.pool.ready(), harness.pool.slots(), harness.pool.free_slots()) == (2, 4, 4)
    harness.submit(1)
    assert (harness.pool.slots(), harness.pool.free_slots()) == (4, 3)
    harness.die(0)
    harness.pool.check(harness.now)
    assert (harness.pool.ready(), harness.pool.slots(), harness.pool.free_slots()) == (1, 2, 2)
