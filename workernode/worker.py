"""A worker process: reads jobs from its queue, runs each in a thread, writes outcomes to its pipe.

Through shared memory the supervisor sees what a killed worker can no longer report: how much of each answer has left
(one byte a slot), how many tokens came, and that the process still runs (the beat).
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from workernode import attempt, logs
from workernode.gateway import Gateways
from workernode.outcome import OutcomeBuilder
from workernode.pipe import PIECE, Outbox, Unpacker
from workernode.protocol import AnswerState, Hold, Job, Ready, Stop, Target, ToWorker
from workernode.record import Node
from workernode.settings import Settings
from workernode.upstream import Upstream

log = logging.getLogger(__name__)

BEAT_EVERY = 1.0  # seconds
SUPERVISORS_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
)  # fmt: skip
# Python 3.13 lets json recurse 10,000 levels deep, which takes 2 MB of stack; with a smaller stack the process dies.
# Only what is used of the stack becomes memory.
THREAD_STACK = 4 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """What a worker process is started with."""

    settings: Settings
    node: Node
    inbox: Connection  # messages ToWorker (workernode/pipe.py)
    outbox: Connection  # messages FromWorker
    answer_states: MutableSequence[int]  # shared memory: an AnswerState for each slot
    token_counts: MutableSequence[float]  # shared memory, for each slot: tokens from upstream since the process started
    beat: Any  # shared memory: monotonic time of the last beat


def main(arguments: WorkerArguments) -> None:
    """Serve until the supervisor sends Stop or is gone."""
    # A terminal sends SIGINT, SIGQUIT and SIGHUP, and systemd SIGTERM, to the whole group. What to do then is the
    # supervisor's decision alone.
    for number in SUPERVISORS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    threading.stack_size(THREAD_STACK)
    # The garbage collector never visits what was imported, so that its pages stay shared with the other workers.
    gc.freeze()
    settings = arguments.settings
    logs.setup(settings, worker=arguments.node.worker)
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()
    threading.Thread(target=_beat, args=(arguments.beat,), name="beat", daemon=True).start()
    outbox = Outbox(arguments.outbox)
    upstream = Upstream(settings.connect_timeout, settings.read_timeout, outbox.put)
    gateways, outcomes = Gateways(settings.connect_timeout), OutcomeBuilder(settings, arguments.node)
    services = attempt.Services(settings, upstream, gateways, outcomes)
    slots = [_SlotProgress(number, arguments) for number in range(len(arguments.answer_states))]
    threads = TaskThreads(lambda job: outbox.put(attempt.run(job, services, slots[job.slot])))
    outbox.put(Ready(os.getpid()))
    _read_jobs(arguments.inbox.fileno(), threads, upstream)


def _read_jobs(inbox: int, threads: TaskThreads, upstream: Upstream) -> None:
    unpacker: Unpacker[ToWorker] = Unpacker()
    while piece := os.read(inbox, PIECE):  # b"": the supervisor is gone
        for message in unpacker.feed(piece):
            match message:
                case Job():
                    threads.start(message)
                case Hold():
                    upstream.set_hold(message)
                case Target():
                    upstream.set_target(message)
                case Stop():
                    return


class TaskThreads:
    """Threads that run jobs. A job goes to an idle thread; a thread is started where none is idle.

    Args:
        run: runs a job and never raises. If it does raise, the process exits: the supervisor then decides the tasks of
            this worker, while a thread that just ended would lose its task and its slot for good.
    """

    def __init__(self, run: Callable[[Job], None]) -> None:
        self._run = run
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        # Append and pop of a list are atomic.
        self._idle: list[None] = []  # one entry for each thread that waits for a job
        self._unassigned: list[None] = []  # one entry for each job that waits for a thread
        self._count = 0

    def start(self, job: Job) -> None:
        """Have the job run. Called by one thread only.

        Raises:
            RuntimeError: not even one thread can be started.
        """
        self._jobs.put(job)
        try:
            self._idle.pop()
        except IndexError:
            self._add_thread()

    def _add_thread(self) -> None:
        try:
            threading.Thread(target=self._run_jobs, name=f"task-{self._count}", daemon=True).start()
        except RuntimeError as exc:  # a limit of the system, or no memory
            if self._count == 0:
                raise
            self._unassigned.append(None)
            why = "cannot start another thread (%s); the task waits until one of %d threads is free"
            log.warning(why, exc, self._count, extra={"event": "thread_limit", "threads": self._count})
        else:
            self._count += 1

    def _run_jobs(self) -> None:
        try:
            while True:
                self._run(self._jobs.get())
                try:
                    self._unassigned.pop()
                except IndexError:
                    self._idle.append(None)
        except BaseException:
            log.critical("a task's thread failed; the worker exits", exc_info=True, extra={"event": "thread_failed"})
            os._exit(1)


class _SlotProgress:
    """What the supervisor sees of one slot (attempt.Progress)."""

    def __init__(self, number: int, arguments: WorkerArguments) -> None:
        self._number = number
        self._answer_states = arguments.answer_states
        self._token_counts = arguments.token_counts

    def show_answer_state(self, state: AnswerState) -> None:
        self._answer_states[self._number] = state

    def count_tokens(self, tokens: int) -> None:
        self._token_counts[self._number] += tokens


def _exit_with_parent() -> None:
    """Exit when the supervisor does: an orphan would ask upstream, and spend money, for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _beat(shared: Any) -> None:
    while True:
        shared.value = time.monotonic()
        time.sleep(BEAT_EVERY)
