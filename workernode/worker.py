"""A worker process: reads jobs from its queue, runs each in the thread of its slot, writes outcomes to its pipe.

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
from collections.abc import MutableSequence
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
from workernode.upstream.client import Upstream

log = logging.getLogger(__name__)

BEAT_EVERY = 1.0  # seconds
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
    # A terminal sends SIGINT, and systemd SIGTERM, to the whole group; when to stop is the supervisor's decision alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
    slots = [_Slot(number, services, outbox, arguments) for number in range(len(arguments.answer_states))]
    outbox.put(Ready(os.getpid()))
    _read_jobs(arguments.inbox.fileno(), slots, upstream)


def _read_jobs(inbox: int, slots: list[_Slot], upstream: Upstream) -> None:
    unpacker: Unpacker[ToWorker] = Unpacker()
    while piece := os.read(inbox, PIECE):  # b"": the supervisor is gone
        for message in unpacker.feed(piece):
            match message:
                case Job():
                    slots[message.slot].start(message)
                case Hold():
                    upstream.hold(message)
                case Target():
                    upstream.aim(message)
                case Stop():
                    return


class _Slot:
    """One slot and its thread, which starts with the first job."""

    def __init__(self, number: int, services: attempt.Services, outbox: Outbox, arguments: WorkerArguments) -> None:
        self._number = number
        self._services = services
        self._outbox = outbox
        self._answer_states = arguments.answer_states
        self._token_counts = arguments.token_counts
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, job: Job) -> None:
        """Run the job next."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_jobs, name=f"slot-{self._number}", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run_jobs(self) -> None:
        while True:
            self._outbox.put(attempt.run(self._jobs.get(), self._services, self))

    # --- attempt.Progress ---

    def show_answer_state(self, state: AnswerState) -> None:
        """Write it where the supervisor sees it."""
        self._answer_states[self._number] = state

    def count_tokens(self, tokens: int) -> None:
        """Add them where the supervisor sees the sum."""
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
