"""The pool over fake processes: events in, calls out; no process, no sleep."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest

from supervisor.machine import Clock
from supervisor.workers import pool as pool_module
from supervisor.workers.pool import Pool, Worker
from workernode import pipe
from workernode.call_stats import CallStats
from workernode.protocol import (
    AnswerState,
    Decision,
    FromWorker,
    Job,
    Outcome,
    Ready,
    SavedStream,
    Stop,
    Target,
    ToWorker,
)

FOR_EVER = float("inf")


class FakeProcess:
    """A process that the test controls."""

    def __init__(self, index: int, slots: int, now: float) -> None:
        self.index = index
        self.answer_states = [0] * slots
        self.pid: int | None = 1000 + index
        self.pipe = self.sentinel = self
        self.beat = now
        self.tokens = 0.0
        self.got: list[ToWorker] = []
        self.pieces: deque[bytes] = deque()
        self.killed = self.closed = 0
        self.stops = True  # when asked to
        self.streams: dict[int, SavedStream] = {}
        self.is_killed_from_outside = False

    def put(self, message: ToWorker) -> None:
        self.got.append(message)

    def write(self, *messages: FromWorker) -> None:
        self.pieces += [pipe.pack(message) for message in messages]

    def read(self) -> bytes:
        return self.pieces.popleft() if self.pieces else b""

    def read_rest(self) -> Iterator[bytes]:
        while self.pieces:
            yield self.pieces.popleft()

    def forget_stream(self, slot: int) -> None:
        self.streams.pop(slot, None)

    def saved_stream(self, slot: int) -> SavedStream | None:
        return self.streams.get(slot)

    def kill(self) -> None:
        self.killed += 1

    def join(self, timeout: float | None = None) -> bool:
        return self.killed > 0 or (self.stops and Stop() in self.got)

    def cause(self) -> str:
        return "exit code 7"

    def was_killed_from_outside(self) -> bool:
        return self.is_killed_from_outside

    def close(self) -> None:
        self.closed += 1


class Harness:
    """A pool of fake processes, with a clock that the test moves."""

    def __init__(self, count: int = 2, slots: int = 4) -> None:
        self.now = 100.0
        self.processes: list[FakeProcess] = []
        self.watched: list[Worker] = []
        self.pool = Pool(count, slots, self._spawn, self, Clock(lambda: self.now, lambda: 0.0))

    def _spawn(self, index: int, slots: int) -> FakeProcess:
        self.processes.append(FakeProcess(index, slots, self.now))
        return self.processes[-1]

    def watch(self, worker: Worker) -> None:
        self.watched.append(worker)

    def unwatch_pipe(self, worker: Worker) -> None:
        assert worker in self.watched

    def unwatch(self, worker: Worker) -> None:
        self.watched.remove(worker)

    def ready(self) -> None:
        """Have every worker report that it takes jobs."""
        for one in self.watched:
            one.process.write(Ready(1))
            assert [type(message) for message in self.pool.collect(one)] == [Ready]

    def worker(self, index: int) -> Worker:
        return next(one for one in self.watched if one.index == index)

    def submit(self, number: int, alone: bool = False) -> tuple[int, int] | None:
        return self.pool.submit(job(number), alone)

    def die(self, index: int) -> pool_module.WorkerDeath:
        last, death = self.pool.reap(self.worker(index))
        assert not last
        return death


def job(number: int) -> Job:
    return Job(number, -1, b"{}", 0.0, 0.0, 0.0, FOR_EVER, 0)


def outcome(number: int) -> Outcome:
    return Outcome(number, f"id-{number}", Decision.ACK, "answered", b"{}")


@pytest.fixture
def harness() -> Harness:
    one = Harness()
    one.pool.start()
    one.ready()
    return one


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
