"""All worker processes: which of them gets a task, what they report, when one is dead or hangs, when it is replaced.

Each worker has a queue and a pipe of its own: one that is killed at any instant can neither block nor corrupt the
others. Owned by the supervisor's main thread; nothing here makes it wait except `stop`. What a death means for the
tasks is the dispatcher's decision. Processes (process.py), clock and loop are passed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from supervisor.machine import Clock
from supervisor.workers.contract import Process
from workernode import pipe
from workernode.protocol import (
    AnswerState,
    FromWorker,
    Granted,
    Job,
    Lease,
    Ready,
    SavedStream,
    Stop,
    Target,
    ToWorker,
)

HUNG_AFTER = 10.0  # seconds without a beat; a worker beats every second whatever its threads do
START_LIMIT = 30.0  # seconds to the first sign of life: a box under load is slow to start an interpreter
PIPE_ENDED_FOR = 2.0  # seconds that a process may live after its pipe has ended: it is dying, or of no use any more
DEATH_LIMIT = 2.0  # seconds that a killed worker gets to be gone
# A worker that lived shorter than this died at once: its successor waits, twice as long each time.
SHORT_LIFE = 5.0  # seconds
BACKOFF_FIRST, BACKOFF_LONGEST = 0.5, 30.0  # seconds
CRASHES_TO_REPORT = 4  # deaths at once in a row, after which it is reported


class Watcher(Protocol):
    """Who waits for workers (supervisor.loop.Loop)."""

    def watch(self, worker: Worker) -> None:
        """Report when the worker's pipe is readable, and when its process is dead."""

    def unwatch_pipe(self, worker: Worker) -> None:
        """The pipe has ended: report it no more."""

    def unwatch(self, worker: Worker) -> None:
        """Report nothing of it any more; what is not watched is passed over."""


@dataclass(slots=True)
class Worker:
    """One worker process, as the pool sees it."""

    index: int  # its place in the pool; its successor has the same
    process: Process
    free: list[int]  # slots without a job, lowest first
    started_at: float  # monotonic
    unpacker: pipe.Unpacker[FromWorker] = field(default_factory=pipe.Unpacker)
    jobs: dict[int, int] = field(default_factory=dict)  # slot → number of the job in it
    is_ready: bool = False
    is_reserved: bool = False  # for a job that is to run alone: it gets no other
    has_lone_job: bool = False  # the job that it got last runs alone
    pipe_ended_at: float = float("inf")  # monotonic: when nothing more could come from it
    killed_for: str = ""  # why the pool killed it


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """A worker is dead."""

    worker: int
    jobs: dict[int, AnswerState]  # numbers of the jobs it had, and how much of each answer had left
    why: str
    crashes: int  # how often in a row it died at once, this time included
    streams: dict[int, SavedStream] = field(default_factory=dict)  # of jobs whose streams others can go on with
    is_from_outside: bool = False  # somebody else killed it: none of its jobs is the cause


class Pool:
    """All worker processes."""

    def __init__(
        self, count: int, slots: int, spawn: Callable[[int, int], Process], watcher: Watcher, clock: Clock
    ) -> None:
        """Prepare the pool; `start` starts the processes.

        Args:
            count: worker processes (WORKER_PROCESSES).
            slots: tasks at once in all of them together (MAX_PROCESS_NUM).
            spawn: starts a process; gets its index and its slots. A start that fails gives a process that is dead.
            watcher: waits for pipes and sentinels.
            clock: the time.
        """
        self._count = count
        self._all_slots = slots
        self._start_process = spawn
        self._watcher = watcher
        self._clock = clock
        self._workers: dict[int, Worker] = {}
        self._vacant: dict[int, float] = {}  # index → monotonic time at which a successor may start
        self._crashes: dict[int, int] = {}
        self._target: Target | None = None
        self._lease = Lease(float("inf"))
        self._last_check = clock.monotonic()
        self._tokens_before = 0.0  # of workers that are gone

    # --- tasks ---

    def free_slots(self) -> int:
        """Slots without a job, of workers that take jobs."""
        return sum(len(each.free) for each in self._workers.values() if each.is_ready and not each.is_reserved)

    def reserve(self) -> bool:
        """Let a worker run out of jobs, for a job that is to run alone; True once it has none."""
        ready = [each for each in self._workers.values() if each.is_ready]
        reserved = [each for each in ready if each.is_reserved]
        one = min(reserved or ready, key=lambda each: len(each.jobs), default=None)
        if one is None:
            return False
        one.is_reserved = True
        return not one.jobs

    def release(self) -> None:
        """No job waits to run alone: a worker that was emptied for one takes jobs again."""
        for each in self._workers.values():
            each.is_reserved = each.is_reserved and each.has_lone_job and bool(each.jobs)

    def submit(self, job: Job, alone: bool = False) -> tuple[int, int] | None:
        """Give the job to the worker with most free slots.

        Args:
            job: the job; its slot is filled in here.
            alone: give it to the worker that `reserve` has emptied.

        Returns:
            Worker and slot, or None if no slot is free.
        """
        fit = [each for each in self._workers.values() if each.is_ready and each.free and each.is_reserved is alone]
        one = max(fit, key=lambda each: len(each.free), default=None)
        if one is None:
            return None
        slot = heapq.heappop(one.free)
        one.jobs[slot] = job.number
        one.has_lone_job = alone
        one.process.answer_states[slot] = AnswerState.NOT_STARTED
        one.process.forget_stream(slot)
        one.process.put(replace(job, slot=slot))
        return one.index, slot

    def free(self, index: int, slot: int) -> None:
        """The job in that slot has ended."""
        one = self._workers.get(index)
        if one is not None and one.jobs.pop(slot, None) is not None:
            heapq.heappush(one.free, slot)

    def grant(self, index: int, granted: Granted) -> None:
        """Answer a worker that asked for a claim; one that is gone is passed over."""
        one = self._workers.get(index)
        if one is not None:
            one.process.put(granted)

    def set_lease(self, lease: Lease) -> None:
        """Let all workers, and those to come, send streams until a moment."""
        if lease != self._lease:
            self._lease = lease
            for each in self._workers.values():
                each.process.lease = lease

    def set_target(self, target: Target) -> None:
        """Tell all workers, and those to come, whom to ask."""
        self._target = target
        self.broadcast(target)

    def broadcast(self, message: ToWorker) -> None:
        """Send the message to all workers."""
        for each in self._workers.values():
            each.process.put(message)

    # --- the processes ---

    def start(self) -> None:
        """Start all workers; each reports Ready when it takes jobs."""
        for index in range(self._count):
            self._spawn(index)

    def collect(self, one: Worker) -> Iterator[FromWorker]:
        """Yield what the worker has reported. Call when its pipe is readable.

        A worker that was reaped in the same turn is passed over: its pipe was read to the end then.
        """
        if self._workers.get(one.index) is not one:
            return
        piece = one.process.read()
        if not piece:
            self._watcher.unwatch_pipe(one)
            one.is_ready = False  # it can report nothing any more: it gets no more jobs
            one.pipe_ended_at = self._clock.monotonic()
            return
        for message in one.unpacker.feed(piece):
            if isinstance(message, Ready):
                one.is_ready = True
            yield message

    def reap(self, one: Worker) -> tuple[list[FromWorker], WorkerDeath]:
        """The worker's sentinel fired: return what was still in its pipe, then what its death leaves."""
        last = [message for piece in one.process.read_rest() for message in one.unpacker.feed(piece)]
        saved = {number: one.process.saved_stream(slot) for slot, number in one.jobs.items()}
        streams = {number: stream for number, stream in saved.items() if stream is not None}
        self._forget(one)
        jobs = {number: AnswerState(one.process.answer_states[slot]) for slot, number in one.jobs.items()}
        now = self._clock.monotonic()
        lived = now - one.started_at
        crashes = self._crashes[one.index] = self._crashes.get(one.index, 0) + 1 if lived < SHORT_LIFE else 0
        pause = min(BACKOFF_FIRST * 2 ** (crashes - 1), BACKOFF_LONGEST) if crashes > 1 else 0.0
        self._vacant[one.index] = now + pause
        is_from_outside = not one.killed_for and one.process.was_killed_from_outside()
        why = one.killed_for or one.process.cause()
        return last, WorkerDeath(one.index, jobs, why, crashes, streams, is_from_outside)

    def check(self, now: float) -> None:
        """Kill workers that hang, start successors that are due."""
        late = now - self._last_check
        self._last_check = now
        for each in self._workers.values():
            if now - each.pipe_ended_at > PIPE_ENDED_FOR and not each.killed_for:
                each.killed_for = "its pipe has ended"
                each.process.kill()
            since = max(each.process.beat, each.started_at)
            limit = HUNG_AFTER if each.is_ready else START_LIMIT
            # A gap in our own loop (the whole node was stopped for a while) is no fault of the worker.
            if late < HUNG_AFTER / 2 and now - since > limit and not each.killed_for:
                each.killed_for = f"no sign of life for {limit:g} s"
                each.process.kill()
        for index in [index for index, at in self._vacant.items() if at <= now]:
            del self._vacant[index]
            self._spawn(index)

    def next_check(self) -> float:
        """Monotonic time of the next successor; inf without one."""
        return min(self._vacant.values(), default=float("inf"))

    def stop(self, limit: float) -> None:
        """Tell all to stop, and kill those that have not stopped after `limit` seconds. Their jobs have been decided
        before.
        """
        self._vacant.clear()
        self.broadcast(Stop())
        end = self._clock.monotonic() + limit
        for each in list(self._workers.values()):
            if not each.process.join(max(0.0, end - self._clock.monotonic())):
                each.process.kill()
                each.process.join(DEATH_LIMIT)
            self._forget(each)

    def is_ending(self) -> bool:
        """Return True if the end of a stream is leaving a worker at this moment."""
        states = (one.process.answer_states[slot] for one in self._workers.values() for slot in one.jobs)
        return AnswerState.ENDING in states

    def kill(self) -> tuple[list[FromWorker], dict[int, AnswerState]]:
        """Kill all workers at once.

        Returns:
            What was still in their pipes; and how much of the answer to each job had left, by the job's number. Both
            are read after the deaths: a worker that is still alive may send more.
        """
        self._vacant.clear()
        workers = list(self._workers.values())
        for each in workers:
            each.process.kill()
        last: list[FromWorker] = []
        states: dict[int, AnswerState] = {}
        for each in workers:
            each.process.join(DEATH_LIMIT)
            last += [message for piece in each.process.read_rest() for message in each.unpacker.feed(piece)]
            states |= {number: AnswerState(each.process.answer_states[slot]) for slot, number in each.jobs.items()}
            self._forget(each)
        return last, states

    # --- figures ---

    def is_steady(self, now: float) -> bool:
        """True if all workers take jobs and none has died at once lately."""
        steady = [each for each in self._workers.values() if each.is_ready and now - each.started_at >= SHORT_LIFE]
        return len(steady) == self._count

    def tokens(self) -> float:
        """Tokens that came from upstream since the start, counted as they come."""
        return self._tokens_before + sum(each.process.tokens for each in self._workers.values())

    def slots(self) -> int:
        """Slots of workers that take jobs, with a job or without."""
        return sum(len(each.process.answer_states) for each in self._workers.values() if each.is_ready)

    def ready(self) -> int:
        """How many workers take jobs."""
        return sum(each.is_ready for each in self._workers.values())

    def _spawn(self, index: int) -> None:
        slots = self._slots_of(index)
        process = self._start_process(index, slots)
        process.lease = self._lease
        one = Worker(index, process, list(range(slots)), self._clock.monotonic())
        self._workers[index] = one
        if self._target is not None:
            process.put(self._target)
        self._watcher.watch(one)

    def _slots_of(self, index: int) -> int:
        """All slots over all workers, as evenly as possible."""
        share, rest = divmod(self._all_slots, self._count)
        return share + (index < rest)

    def _forget(self, one: Worker) -> None:
        if self._workers.get(one.index) is not one:
            return
        self._watcher.unwatch(one)
        one.process.close()
        self._tokens_before += one.process.tokens
        del self._workers[one.index]
