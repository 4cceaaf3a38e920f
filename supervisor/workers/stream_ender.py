"""Stands in for workers that are gone when the node leaves: ends streams that their clients have begun to see."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from workernode import attempt
from workernode.gateway import Gateways
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, Job, Outcome
from workernode.record import Node
from workernode.settings import Settings
from workernode.upstream.client import Upstream

HANDS = 16  # streams ended at once
TIME = 5.0  # seconds for all of them; a stream that cannot be ended by then is left to the gateway's own end


def run(jobs: Sequence[Job], settings: Settings, node: Node) -> list[Outcome]:
    """Return the outcomes of the jobs, each of which carries a rejection; those not told in time are missing."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    done: list[Outcome] = []
    for job in jobs:
        waiting.put(job)
    upstream = Upstream(
        settings.connect_timeout, settings.read_timeout, lambda seen: None
    )  # never asked: all have verdicts
    services = attempt.Services(settings, upstream, Gateways(settings.connect_timeout), OutcomeBuilder(settings, node))

    def work() -> None:
        while not waiting.empty():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            done.append(attempt.run(job, services, _Nobody()))

    threads = [threading.Thread(target=work, name="stand-in", daemon=True) for _ in range(min(HANDS, len(jobs)))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + TIME
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(done)


class _Nobody:
    """Nobody is left to look (attempt.Progress)."""

    def show_answer_state(self, state: AnswerState) -> None:
        """To nobody."""

    def count_tokens(self, tokens: int) -> None:
        """To nobody."""
