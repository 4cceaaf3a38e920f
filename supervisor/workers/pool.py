"""The worker processes: start, hand over, collect, notice death or a hang, replace.

Each worker has a queue and a pipe of its own: one that is killed at any instant can neither block nor corrupt the
others. Owned by the supervisor's main thread; nothing here makes it wait. What a death means for the tasks is
node.py's to decide.
"""

from __future__ import annotations

import heapq
import logging
import multiprocessing
import os
import queue
import select
import selectors
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from workernode import worker
from workernode.protocol import AnswerState, FromWorker, Job, Ready, Stop, Target, ToWorker
from workernode.record import Node
from workernode.settings import Settings

log = logging.getLogger(__name__)

HUNG_AFTER = 10.0  # seconds without a beat; a worker beats every second whatever its threads do
START_LIMIT = 30.0  # seconds to the first sign of life: a box under load is slow to start an interpreter
# A worker that lived shorter than this died at once: its successor waits, twice as long each time.
SHORT_LIFE = 5.0  # seconds
BACKOFF_FIRST, BACKOFF_LONGEST = 0.5, 30.0  # seconds
CRASHES_TO_REPORT = 4  # deaths at once in a row, after which a person is told

PRELOAD = ["workernode.preload"]
FORKSERVER_GONE = 255  # what multiprocessing says of a worker whose forkserver died: nothing is known of it


class TaskQueue:
    """A multiprocessing queue with one process at its end: a buffer, a feeder thread and a pipe.

    What the pipe takes at once goes without the feeder, whose turn would cost two changes of threads a task.

    multiprocessing.Queue has the same parts and two traps that this one is free of: its lock stays taken when the
    reader is killed, and its feeder waits for ever on the pipe of a reader that was stopped and then killed, because
    the parent holds a reading end open (docs/decisions/0004-queues.md).
    """

    def __init__(self, writer: Connection, name: str) -> None:
        self._writer = writer
        self._fd = writer.fileno()
        os.set_blocking(self._fd, False)
        self._buffer: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued = self._fed = 0  # messages that went into the buffer, and that have left it whole
        threading.Thread(target=self._feed, name=name, daemon=True).start()

    def put(self, message: ToWorker) -> None:
        """Queue the message; never waits."""
        data = worker.pack(message)
        if self._queued == self._fed and len(data) <= select.PIPE_BUF:  # it goes whole, or not at all
            try:
                os.write(self._fd, data)
                return
            except BlockingIOError:
                pass  # the pipe is full
            except OSError:
                return  # the reader died; the pool notices by its sentinel
        self._queued += 1
        self._buffer.put(data)

    def close(self) -> None:
        """Nothing more comes."""
        self._queued += 1  # nothing is written past the end
        self._buffer.put(None)

    def _feed(self) -> None:
        with self._writer:
            while (data := self._buffer.get()) is not None:
                try:
                    self._write(data)
                except OSError:
                    return  # the reader died, as above
                self._fed += 1

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        while rest:
            room.poll()
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                continue  # less room than it takes


@dataclass(slots=True)
class Handle:
    """One worker process, as the supervisor sees it."""

    index: int  # its place in the pool; its successor has the same
    process: Any
    inbox: TaskQueue
    outbox: Connection
    answer_states: Any  # shared memory, as in worker.WorkerArguments
    token_counts: Any
    beat: Any
    free: list[int]  # slots without a job, lowest first
    started_at: float
    unpacker: worker.Unpacker[FromWorker] = field(default_factory=worker.Unpacker)
    jobs: dict[int, int] = field(default_factory=dict)  # slot → number of the job in it
    ready: bool = False
    reserved: bool = False  # for a job that is to run alone: it gets no other
    killed_for: str = ""  # why the pool killed it


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone."""

    worker: int
    jobs: dict[int, AnswerState]  # numbers of the jobs it had, and how much of each answer had left
    why: str
    crashes: int  # how often in a row it died at once, this time included


class Pool:
    """All worker processes."""

    def __init__(self, settings: Settings, node: Node, selector: selectors.BaseSelector) -> None:
        self._settings = settings
        self._node = node
        self._selector = selector
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._handles: dict[int, Handle] = {}
        self._vacant: dict[int, float] = {}  # index → monotonic time at which a successor may start
        self._crashes: dict[int, int] = {}
        self._target: Target | None = None
        self._last_check = time.monotonic()
        self.restarts = 0
        self._said_before = 0.0  # by workers that are gone

    def start(self) -> None:
        """Start all workers; each says Ready when it takes jobs."""
        for index in range(self._settings.worker_processes):
            self._spawn(index)

    def aim(self, target: Target) -> None:
        """Tell all workers, and those to come, whom to ask."""
        self._target = target
        self.tell(target)

    def tell(self, message: ToWorker) -> None:
        """Tell all workers."""
        for handle in self._handles.values():
            handle.inbox.put(message)

    def room(self) -> int:
        """Slots of workers that take jobs, without one."""
        return sum(len(handle.free) for handle in self._handles.values() if handle.ready and not handle.reserved)

    def empty_one(self) -> bool:
        """Let a worker run out of jobs, for one that is to run alone; True once it has none."""
        ready = [handle for handle in self._handles.values() if handle.ready]
        reserved = [handle for handle in ready if handle.reserved]
        handle = min(reserved or ready, key=lambda h: len(h.jobs), default=None)
        if handle is None:
            return False
        handle.reserved = True
        return not handle.jobs

    def release(self) -> None:
        """Nobody waits to run alone: a worker that was emptied for it takes jobs again."""
        for handle in self._handles.values():
            handle.reserved = handle.reserved and bool(handle.jobs)

    def hand(self, job: Job, alone: bool = False) -> tuple[int, int] | None:
        """Give the job to the worker with most room; return (worker, slot), or None if there is no room.

        Args:
            alone: to the worker that `empty_one` has emptied.
        """
        fit = [h for h in self._handles.values() if h.ready and h.free and h.reserved is alone]
        handle = max(fit, key=lambda h: len(h.free), default=None)
        if handle is None:
            return None
        slot = heapq.heappop(handle.free)
        handle.jobs[slot] = job.number
        handle.answer_states[slot] = AnswerState.NOT_STARTED
        handle.inbox.put(replace(job, slot=slot))
        return handle.index, slot

    def free(self, index: int, slot: int) -> None:
        """The job in that slot has ended."""
        handle = self._handles.get(index)
        if handle is not None and handle.jobs.pop(slot, None) is not None:
            heapq.heappush(handle.free, slot)

    def collect(self, handle: Handle) -> Iterator[FromWorker]:
        """Yield what the worker has said. Call when its pipe is readable."""
        try:
            piece = os.read(handle.outbox.fileno(), worker.PIECE)
        except OSError:
            piece = b""
        if not piece:
            self._selector.unregister(handle.outbox)
            return
        for message in handle.unpacker.feed(piece):
            if isinstance(message, Ready):
                handle.ready = True
            yield message

    def reap(self, handle: Handle) -> tuple[list[FromWorker], Died]:
        """The worker's sentinel fired: return what it had still said, then what its death leaves."""
        if handle.process.exitcode == FORKSERVER_GONE:
            _make_sure(handle.process.pid)
        last = list(self._drain(handle))
        self._forget(handle)
        died_with = {number: AnswerState(handle.answer_states[slot]) for slot, number in handle.jobs.items()}
        lived = time.monotonic() - handle.started_at
        crashes = self._crashes[handle.index] = self._crashes.get(handle.index, 0) + 1 if lived < SHORT_LIFE else 0
        pause = min(BACKOFF_FIRST * 2 ** (crashes - 1), BACKOFF_LONGEST) if crashes > 1 else 0.0
        self._vacant[handle.index] = time.monotonic() + pause
        self.restarts += 1
        return last, Died(handle.index, died_with, handle.killed_for or _cause(handle.process), crashes)

    def check(self, now: float) -> None:
        """Kill workers that hang, start successors that are due."""
        late = now - self._last_check
        self._last_check = now
        for handle in self._handles.values():
            since = max(handle.beat.value, handle.started_at)
            limit = HUNG_AFTER if handle.ready else START_LIMIT
            # A gap in our own loop (the whole node was stopped for a while) says nothing about the worker.
            if late < HUNG_AFTER / 2 and now - since > limit and not handle.killed_for:
                handle.killed_for = f"no sign of life for {limit:g} s"
                handle.process.kill()
        for index in [index for index, at in self._vacant.items() if at <= now]:
            del self._vacant[index]
            self._spawn(index)

    def steady(self, now: float) -> bool:
        """True if all workers are there and have lived long enough to count as well."""
        well = [handle for handle in self._handles.values() if handle.ready and now - handle.started_at >= SHORT_LIFE]
        return len(well) == self._settings.worker_processes

    def next_check(self) -> float:
        """Monotonic time of the next successor; inf without one."""
        return min(self._vacant.values(), default=float("inf"))

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [handle.process.pid for handle in self._handles.values() if handle.process.pid]

    def seen(self) -> dict[int, AnswerState]:
        """How much of the answer to each job has left, by the job's number."""
        return {
            number: AnswerState(handle.answer_states[slot])
            for handle in self._handles.values()
            for slot, number in handle.jobs.items()
        }

    def said(self) -> float:
        """Tokens that came from upstream since the start, counted as they come."""
        return self._said_before + sum(sum(handle.token_counts) for handle in self._handles.values())

    def slots(self) -> int:
        """Slots of workers that take jobs, with one or without."""
        return sum(len(handle.answer_states) for handle in self._handles.values() if handle.ready)

    def ready(self) -> int:
        """How many workers take jobs."""
        return sum(handle.ready for handle in self._handles.values())

    def stop(self, limit: float) -> None:
        """Tell all to leave, and kill those that have not after `limit` seconds. Their jobs have been decided
        before.
        """
        self._vacant.clear()
        self.tell(Stop())
        end = time.monotonic() + limit
        for handle in list(self._handles.values()):
            handle.process.join(max(0.0, end - time.monotonic()))
            if handle.process.is_alive():
                handle.process.kill()
                handle.process.join()
            self._forget(handle)

    def kill(self) -> None:
        """End all at once."""
        self.stop(0.0)

    def _spawn(self, index: int) -> None:
        slots = self._slots(index)
        inbox, writer = self._context.Pipe(duplex=False)
        outbox, outbox_writer = self._context.Pipe(duplex=False)
        answer_states, token_counts, beat = RawArray("B", slots), RawArray("d", slots), RawValue("d", 0.0)
        node = replace(self._node, worker=index)
        arguments = worker.WorkerArguments(
            self._settings, node, inbox, outbox_writer, answer_states, token_counts, beat
        )
        process: Any = self._context.Process(target=worker.main, args=(arguments,), name=f"worker-{index}", daemon=True)
        _ensure_forkserver()
        try:
            process.start()
        except (OSError, EOFError) as exc:  # it, or the forkserver, was killed meanwhile, or there is no room for it
            process = _Stillborn(exc)
        inbox.close()
        outbox_writer.close()
        handle = Handle(
            index,
            process,
            TaskQueue(writer, f"feed-{index}"),
            outbox,
            answer_states,
            token_counts,
            beat,
            list(range(slots)),
            time.monotonic(),
        )
        self._handles[index] = handle
        if self._target is not None:
            handle.inbox.put(self._target)
        self._selector.register(outbox, selectors.EVENT_READ, ("pipe", handle))
        self._selector.register(process.sentinel, selectors.EVENT_READ, ("death", handle))

    def _slots(self, index: int) -> int:
        """MAX_PROCESS_NUM over all workers, as evenly as it goes."""
        share, rest = divmod(self._settings.max_process_num, self._settings.worker_processes)
        return share + (index < rest)

    def _drain(self, handle: Handle) -> Iterator[FromWorker]:
        """Read a dead worker's pipe to its end: outcomes that it had already written count."""
        os.set_blocking(handle.outbox.fileno(), False)
        while True:
            try:
                piece = os.read(handle.outbox.fileno(), worker.PIECE)
            except OSError:
                return
            if not piece:
                return
            yield from handle.unpacker.feed(piece)

    def _forget(self, handle: Handle) -> None:
        if self._handles.get(handle.index) is not handle:
            return
        for source in (handle.outbox, handle.process.sentinel):
            if source in self._selector.get_map():
                self._selector.unregister(source)
        handle.process.join()
        handle.inbox.close()
        handle.outbox.close()
        self._said_before += sum(handle.token_counts)
        del self._handles[handle.index]


def _ensure_forkserver() -> None:
    """Start the forkserver, if it does not run, with the environment that it needs and nobody else should have.

    Before Python 3.14 it does not learn our module path, and would silently go without the preloaded modules. One
    malloc arena instead of one a thread saves some 3 MB a worker: its threads wait, and do not compete for memory.
    """
    wanted = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "MALLOC_ARENA_MAX": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _make_sure(pid: int) -> None:
    """Kill a worker that may still live: its tasks are about to be given to others."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is gone


class _Stillborn:
    """Stands in for a process that died while it was started: it is buried like any other."""

    pid = None
    exitcode = None

    def __init__(self, fault: Exception) -> None:
        self.fault = f"it could not be started ({type(fault).__name__})"
        self.sentinel, writer = os.pipe()
        os.close(writer)  # readable from now on: that is what a death looks like
        self._is_open = True

    def is_alive(self) -> bool:
        return False

    def kill(self) -> None:
        """It is dead."""

    def join(self, timeout: float | None = None) -> None:
        """Nothing is waited for; the sentinel is let go."""
        if self._is_open and timeout is None:
            self._is_open = False
            os.close(self.sentinel)


def _cause(process: Any) -> str:
    """Why a process ended, for a person."""
    if isinstance(process, _Stillborn):
        return process.fault
    exitcode = process.exitcode
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"exit code {exitcode}"
