"""A worker process: its queue in, a thread for each slot, its pipe out.

The main thread reads the queue and hands each job to the thread of its slot; that thread runs the attempt and writes
the outcome to the pipe, whole. The supervisor sees through shared memory what it could not learn by asking: how much
of each answer has left (one byte a slot), and that the process still moves (the beat).
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import struct
import threading
import time
from collections.abc import MutableSequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from workernode import attempt, logs
from workernode.gateway import Gateways
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, FromWorker, Hold, Job, Ready, Stop, Target, ToWorker
from workernode.record import Node
from workernode.settings import Settings
from workernode.upstream.client import Upstream

log = logging.getLogger(__name__)

BEAT_EVERY = 1.0  # seconds
# Python 3.13 lets json go 10,000 levels deep, which takes 2 MB of it; a smaller one ends the process. Of what is asked
# for, only what is used becomes memory.
THREAD_STACK = 4 * 1024 * 1024  # bytes
LENGTH = struct.Struct("!I")  # before each message on a pipe: the bytes that follow
PIECE = 65536  # bytes read at once

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """What a worker process is started with."""

    settings: Settings
    node: Node
    inbox: Connection  # ToWorker, pickled, each behind its LENGTH
    outbox: Connection  # FromWorker, pickled, each behind its LENGTH
    answer_states: MutableSequence[int]  # shared memory: an AnswerState for each slot
    token_counts: MutableSequence[
        float
    ]  # shared memory: tokens that came from upstream, for each slot, since the start
    beat: Any  # shared memory: monotonic time of the last sign of life


def pack(message: object) -> bytes:
    """Return a message as it goes through a pipe."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


class Outbox:
    """The pipe out. Any thread may write; each message goes whole."""

    def __init__(self, connection: Connection) -> None:
        self._fd = connection.fileno()
        self._lock = threading.Lock()

    def put(self, message: FromWorker) -> None:
        """Write the message; waits while the supervisor is slow to read."""
        data = memoryview(pack(message))
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]


class Unpacker(Generic[T]):
    """The other end of a pipe: its pieces in, messages out. It never waits for the rest of one."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[T]:
        """Return the messages that are whole with this piece."""
        buffer = self._buffer
        buffer += piece
        messages: list[T] = []
        start = 0
        while len(buffer) - start >= LENGTH.size:
            end = start + LENGTH.size + LENGTH.unpack_from(buffer, start)[0]
            if end > len(buffer):
                break
            messages.append(pickle.loads(memoryview(buffer)[start + LENGTH.size : end]))  # noqa: S301  # our own process
            start = end
        del buffer[:start]
        return messages


def main(arguments: WorkerArguments) -> None:
    """Serve until told to stop, or until the supervisor is gone."""
    # A terminal sends SIGINT, and systemd SIGTERM, to the whole group; when to stop is the supervisor's decision alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    threading.stack_size(THREAD_STACK)
    gc.freeze()  # what was imported stays: never walked through again, and its pages stay shared with the other workers
    settings = arguments.settings
    logs.setup(settings, worker=arguments.node.worker)
    threading.Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    threading.Thread(target=_beat, args=(arguments.beat,), name="beat", daemon=True).start()
    outbox = Outbox(arguments.outbox)
    upstream = Upstream(settings.connect_timeout, settings.read_timeout, outbox.put)
    gateways, outcomes = Gateways(settings.connect_timeout), OutcomeBuilder(settings, arguments.node)
    services = attempt.Services(settings, upstream, gateways, outcomes)
    slots = [_Slot(number, services, outbox, arguments) for number in range(len(arguments.answer_states))]
    outbox.put(Ready(os.getpid()))
    unpacker: Unpacker[ToWorker] = Unpacker()
    while piece := os.read(arguments.inbox.fileno(), PIECE):  # b"": the supervisor is gone
        for message in unpacker.feed(piece):
            match message:
                case Job():
                    slots[message.slot].hand(message)
                case Hold():
                    upstream.hold(message)
                case Target():
                    upstream.aim(message)
                case Stop():
                    return


class _Slot:
    """One slot and its thread, which is started when it is first needed."""

    def __init__(self, number: int, services: attempt.Services, outbox: Outbox, arguments: WorkerArguments) -> None:
        self._number = number
        self._services = services
        self._outbox = outbox
        self._answer_states = arguments.answer_states
        self._token_counts = arguments.token_counts
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def hand(self, job: Job) -> None:
        """Run the job next."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"slot-{self._number}", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            self._outbox.put(attempt.run(self._jobs.get(), self._services, self))

    def show_answer_state(self, state: AnswerState) -> None:
        """Tell the supervisor what may have left (attempt.Progress)."""
        self._answer_states[self._number] = state

    def count_tokens(self, tokens: int) -> None:
        """Tell the supervisor that tokens came (attempt.Progress)."""
        self._token_counts[self._number] += tokens


def _leave_with_parent() -> None:
    """Die when the supervisor does: an orphan would serve, and spend money, for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _beat(shared: Any) -> None:
    while True:
        shared.value = time.monotonic()
        time.sleep(BEAT_EVERY)
