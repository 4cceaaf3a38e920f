"""Stand-ins for the threads that a node starts for one purpose: self-check, and the end of streams after a drain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from supervisor.events import SelfChecked
from tests.simulation.outside import AWAY
from tests.simulation.workers import SimProcess
from workernode.protocol import NODE_KINDS, Job, Outcome, Target

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

STREAMS_ENDED_WITHIN = 5.0  # seconds that the ending of streams gets at the end of a drain


def self_check(node: SimNode, target: Target, at_start: bool, done: Callable[[SelfChecked], None]) -> None:
    """A refusal is believed after a second one, as in supervisor/fitness/self_check.py."""
    asked_at = node.world.now
    first = node.upstream.self_check()
    is_refused = first is not None and first.kind in NODE_KINDS

    def end(result: SelfChecked) -> None:
        if node.is_alive:
            done(result)

    def repeat() -> None:
        again = node.upstream.self_check()
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
    if node.gateway.is_away:
        for job in jobs:
            node.gateway.clients[node.request_of(job).id].excuses.add("the gateway was away when its node stopped")

    def over() -> None:
        if enders:
            for ender in enders:
                ender.die("it has ended its stream")
            enders.clear()
            if node.is_alive:
                done(list(outcomes))

    for job in jobs:
        ender = SimProcess(node, 99, 1, 0.0, 1000 + len(node.processes))
        ender.is_ready = True
        node.processes.append(ender)
        enders.append(ender)
        _collect_from(ender, outcomes, lambda: len(outcomes) == len(jobs) and over())
        ender.put(job)
    node.world.after(STREAMS_ENDED_WITHIN, over)


def _collect_from(ender: SimProcess, outcomes: list[Outcome], came: Callable[[], object]) -> None:
    def write(message: Any) -> None:
        if isinstance(message, Outcome):
            outcomes.append(message)
            came()

    ender.write = write  # type: ignore[method-assign]
