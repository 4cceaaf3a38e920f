"""What the pool does when a worker dies or hangs: what its jobs have come to is kept, and another takes its place."""

from __future__ import annotations

import pytest

from supervisor.workers import pool as pool_module
from tests.unit.supervisor.workers.harness import FOR_EVER, Harness, outcome
from workernode import pipe
from workernode.call_stats import CallStats
from workernode.protocol import AnswerState, SavedStream


def test_the_outcomes_in_the_pipe_of_a_dead_worker_count(harness: Harness) -> None:
    harness.submit(1)
    harness.submit(3)
    harness.processes[0].answer_states[0] = AnswerState.ENDED
    whole, half = pipe.pack(outcome(1)), pipe.pack(outcome(2))[:9]
    harness.processes[0].pieces += [whole[:20], whole[20:] + half]
    last, death = harness.pool.reap(harness.worker(0))
    assert last == [outcome(1)]
    assert (death.worker, death.jobs, death.why) == (0, {1: AnswerState.ENDED}, "exit code 7")
    assert harness.processes[0].closed == 1


def test_what_a_dead_worker_has_sent_of_a_stream_comes_with_its_death(harness: Harness) -> None:
    stream = SavedStream({}, True, "so far", 2, 0, False, CallStats())
    harness.processes[0].streams[0] = stream  # of the job before: the next one has its own
    harness.submit(1)
    assert harness.die(0).streams == {}
    harness.pool.check(harness.now)
    harness.ready()
    harness.submit(2)
    harness.submit(3)
    for one in harness.watched:
        for slot in one.jobs:
            one.process.streams[slot] = stream
    assert harness.die(1).streams | harness.die(0).streams == {2: stream, 3: stream}


def test_a_dead_worker_is_replaced_at_once_and_after_crashes_with_growing_pauses(harness: Harness) -> None:
    harness.now += pool_module.SHORT_LIFE
    pauses = []
    for _ in range(10):
        death = harness.die(0)
        pauses.append((death.crashes, harness.pool.next_check() - harness.now))
        harness.now = harness.pool.next_check()
        harness.pool.check(harness.now)
    first = pool_module.BACKOFF_FIRST
    assert pauses[:4] == [(0, 0.0), (1, 0.0), (2, first * 2), (3, first * 4)]
    assert pauses[-1][1] == pool_module.BACKOFF_LONGEST
    assert harness.pool.next_check() == FOR_EVER
    harness.now += pool_module.SHORT_LIFE
    assert harness.die(0).crashes == 0


@pytest.mark.parametrize(("is_ready", "limit"), [(True, pool_module.HUNG_AFTER), (False, pool_module.START_LIMIT)])
def test_a_worker_without_a_sign_of_life_is_killed_once(is_ready: bool, limit: float) -> None:
    harness = Harness(count=1)
    harness.pool.start()
    if is_ready:
        harness.ready()
    end = harness.now + limit
    while harness.now < end:
        harness.pool.check(harness.now)
        assert not harness.processes[0].killed
        harness.now += 1.0
    harness.now += 0.1
    for _ in range(3):
        harness.pool.check(harness.now)
    assert harness.processes[0].killed == 1
    harness.processes[0].is_killed_from_outside = True  # as its exit code says
    death = harness.die(0)
    assert death.why == f"no sign of life for {limit:g} s"
    assert not death.is_from_outside


def test_a_worker_that_somebody_else_killed_is_reported_as_killed_from_outside(harness: Harness) -> None:
    harness.processes[0].is_killed_from_outside = True
    assert harness.die(0).is_from_outside
    assert not harness.die(1).is_from_outside


def test_a_gap_in_the_supervisors_own_loop_kills_no_worker(harness: Harness) -> None:
    harness.now += 60.0
    harness.pool.check(harness.now)
    assert not any(process.killed for process in harness.processes)


def test_the_pool_is_steady_when_every_worker_has_lived_for_a_while(harness: Harness) -> None:
    assert not harness.pool.is_steady(harness.now)
    harness.now += pool_module.SHORT_LIFE
    assert harness.pool.is_steady(harness.now)
    harness.die(0)
    assert not harness.pool.is_steady(harness.now)


def test_tokens_of_dead_workers_are_not_forgotten(harness: Harness) -> None:
    harness.processes[0].tokens, harness.processes[1].tokens = 5.0, 7.0
    harness.die(0)
    assert harness.pool.tokens() == 12.0


def test_a_worker_whose_pipe_has_ended_gets_no_more_jobs_and_is_killed_if_it_lives_on(harness: Harness) -> None:
    assert list(harness.pool.collect(harness.worker(0))) == []
    assert harness.pool.free_slots() == 2
    harness.pool.check(harness.now)
    assert not harness.processes[0].killed
    for _ in range(3):
        harness.now += pool_module.PIPE_ENDED_FOR / 2 + 0.1
        harness.pool.check(harness.now)
    assert [process.killed for process in harness.processes] == [1, 0]
    assert harness.die(0).why == "its pipe has ended"


def test_a_pipe_that_is_reported_after_the_death_in_the_same_turn_is_passed_over(harness: Harness) -> None:
    """A forkserver that dies may bring a worker's death before the end of its pipe."""
    worker = harness.worker(0)
    harness.die(0)
    assert list(harness.pool.collect(worker)) == []  # unwatch_pipe would raise: the worker is not watched any more
