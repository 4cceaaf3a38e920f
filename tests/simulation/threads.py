"""Stand-ins for the threads that a node starts for one purpose: self-check, and the end of streams after a drain."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.events import SelfChecked
from tests.simulation.outside import AWAY
from tests.simulation.workers import SimProcess
from workernode.protocol import NODE_KINDS, Job, Outcome, Target

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

STREAMS_ENDED_WITHIN = 5.0  # seconds that the ending of streams gets at the end of a drain
PAUSE = 0.25  # seconds between two offers to a gateway that cannot be reached


def self_check(node: SimNode, target: Target, at_start: bool, done: Callable[[SelfChecked], None]) -> None:
    """A refusal is believed after a second one, as in supervisor/fitness/self_check.py."""
    asked_at = node.world.now
    first = node.upstream.self_check(target.key or "")
    is_refused = first is not None and first.kind in NODE_KINDS

    def end(result: SelfChecked) -> None:
        if node.is_alive:
            done(result)

    def repeat() -> None:
        again = node.upstream.self_check(target.key or "")
        is_known = again is None or (first is not None and again.kind is first.kind)
        end(SelfChecked(node.world.now, again if is_known else AWAY))

    if is_refused:
        node.world.after(0.3, lambda: end(SelfChecked(asked_at, first, is_first_refusal=True)))
        node.world.after(0.9, repeat)
    elif not at_start:
        node.world.after(0.3, lambda: end(SelfChecked(asked_at, first)))


def end_streams(node: SimNode, jobs: Sequence[Job], done: Callable[[list[Outcome]], None]) -> None:
    """Stands in for supervisor.workers.drain_ender."""
    outcomes: list[Outcome] = []
    enders: list[SimProcess] = []
    end = node.world.now + STREAMS_ENDED_WITHIN

    def over() -> None:
        if enders:
            for job in jobs:
                if job.number not in {outcome.number for outcome in outcomes if outcome.kept is None}:
                    client = node.gateway.clients[node.request_of(job).id]
                    client.excuses.add("its stream could not be ended when its node stopped")
            for ender in enders:
                ender.die("it has ended its stream")
            enders.clear()
            if node.is_alive:
                done(list(outcomes))

    def came(ender: SimProcess, job: Job, message: object) -> None:
        if not isinstance(message, Outcome):
            return
        if message.kept is not None and node.world.now + PAUSE < end:
            node.world.after(PAUSE, ender.put, replace(job, kept=message.kept))
            return
        outcomes.append(message)
        if len(outcomes) == len(jobs):
            over()

    for job in jobs:
        ender = SimProcess(node, 99, 1, 0.0, 1000 + len(node.processes))
        ender.is_ready, ender.asks_claims = True, False
        ender.write = functools.partial(came, ender, job)  # type: ignore[method-assign]
        node.processes.append(ender)
        enders.append(ender)
        ender.put(job)
    node.world.after(STREAMS_ENDED_WITHIN, over)
