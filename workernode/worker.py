"""A worker process: reads jobs from its pipe, runs each as a task of its hub, writes outcomes to its other pipe.

Through shared memory the supervisor sees what a killed worker can no longer report: how much of each answer has left
(one byte a slot), how many tokens came, and that the hub still runs (the beat).
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from workernode import attempt, logs
from workernode.gateway import Gateways
from workernode.net.handover import Handover
from workernode.net.hub import Hub
from workernode.net.waiting import sleep
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, Job, Ready
from workernode.record import Node
from workernode.settings import Settings
from workernode.stream_claim import StreamClaims
from workernode.stream_memory import StreamMemory, StreamSaver
from workernode.token_estimate import TokenEstimator
from workernode.upstream import Upstream
from workernode.worker_pipes import Inbox, Outbox

log = logging.getLogger(__name__)

BEAT_EVERY = 1.0  # seconds
SUPERVISORS_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
)  # fmt: skip


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
    # Shared memory: monotonic time until which streams may be sent, and how often that had run out (stream_claim.py).
    lease: Sequence[float]
    streams: StreamMemory | None = None  # shared memory: what the clients of streams were sent; None: nobody asks
    handover: tuple[Connection, Connection] | None = None  # the two ends of a pipe; with `streams` (net/handover.py)


def main(arguments: WorkerArguments) -> None:
    """Serve until the supervisor sends Stop or is gone."""
    # A terminal sends SIGINT, SIGQUIT and SIGHUP, and systemd SIGTERM, to the whole group. What to do then is the
    # supervisor's decision alone.
    for number in SUPERVISORS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    # The garbage collector never visits what was imported, so that its pages stay shared with the other workers.
    gc.freeze()
    settings = arguments.settings
    logs.setup(settings, worker=arguments.node.worker)
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()
    hub = Hub()
    outbox = Outbox(arguments.outbox.fileno(), hub)
    upstream = Upstream(settings.connect_timeout, settings.read_timeout, outbox.put)
    handover = Handover(*(each.fileno() for each in arguments.handover)) if arguments.handover else None
    slots = [_SlotProgress(number, arguments, handover) for number in range(len(arguments.answer_states))]
    gateways, outcomes = Gateways(settings.connect_timeout, len(slots)), OutcomeBuilder(settings, arguments.node)
    estimator = TokenEstimator(settings.tokenizer) if settings.tokenizer else None
    services = attempt.Services(settings, upstream, gateways, outcomes, estimator)
    claims = StreamClaims(outbox.put, lambda: tuple(arguments.lease))

    def run(job: Job) -> None:
        outbox.put(attempt.run(job, services, slots[job.slot], claims.open(job)))
        claims.close(job)

    Inbox(arguments.inbox.fileno(), hub, upstream, run, claims.answered)
    hub.start(lambda: _beat(arguments.beat, claims))
    outbox.put(Ready(os.getpid()))
    hub.run()


class _SlotProgress:
    """What the supervisor sees of one slot (attempt.Progress)."""

    def __init__(self, number: int, arguments: WorkerArguments, handover: Handover | None) -> None:
        self._number = number
        self._answer_states = arguments.answer_states
        self._token_counts = arguments.token_counts
        streams = arguments.streams
        self.saver = StreamSaver(streams.slot(number), handover) if streams and handover else None

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


def _beat(shared: Any, claims: StreamClaims) -> None:
    """The task that beats. A hub that hangs beats no more, and the supervisor replaces its worker."""
    while True:
        shared.value = time.monotonic()
        claims.tick()
        sleep(BEAT_EVERY)
