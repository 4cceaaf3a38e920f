"""Ends streams whose workers are gone when the node stops, so that their clients do not wait for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from workernode import attempt
from workernode.gateway import Gateways
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, Job, Outcome
from workernode.record import Node
from workernode.settings import Settings
from workernode.stream_memory import StreamSaver
from workernode.upstream import Upstream

THREADS = 16  # streams ended at once
TIME = 5.0  # seconds for all of them; a stream that is not ended by then has no outcome
PAUSE = 0.25  # seconds between two offers to a gateway that cannot be reached; no supervisor offers it later


def start(jobs: Sequence[Job], settings: Settings, node: Node, done: Callable[[list[Outcome]], None]) -> None:
    """Do what `run` does on a thread of its own, which gives its result to `done`."""
    threading.Thread(target=lambda: done(run(jobs, settings, node)), name="stream-enders", daemon=True).start()


def run(jobs: Sequence[Job], settings: Settings, node: Node) -> list[Outcome]:
    """Send each job's rejection to its client.

    Args:
        jobs: each carries a rejection; upstream is not asked.

    Returns:
        The outcomes of the jobs that ended within TIME, in any order.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    outcomes: list[Outcome] = []
    upstream = Upstream(settings.connect_timeout, settings.read_timeout, lambda report: None)
    gateways = Gateways(settings.connect_timeout, THREADS)
    services = attempt.Services(settings, upstream, gateways, OutcomeBuilder(settings, node))

    end = time.monotonic() + TIME

    def work() -> None:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            outcome = attempt.run(job, services, _Unseen())
            while outcome.kept is not None and time.monotonic() + PAUSE < end:
                time.sleep(PAUSE)
                outcome = attempt.run(replace(job, kept=outcome.kept), services, _Unseen())
            outcomes.append(outcome)

    threads = [threading.Thread(target=work, name="stream-ender", daemon=True) for _ in range(min(THREADS, len(jobs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    gateways.connections.close()
    return list(outcomes)


class _Unseen:
    """Progress that nobody watches (attempt.Progress)."""

    saver: StreamSaver | None = None

    def show_answer_state(self, state: AnswerState) -> None:
        """Ignored."""

    def count_tokens(self, tokens: int) -> None:
        """Ignored."""
