"""Passes what the node sees of upstream to fitness, and what fitness has decided to workers, log and people."""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisor.events import SelfChecked
from supervisor.fitness import OUTAGES, Begin, End, FitnessStateMachine
from supervisor.health.incidents import Incidents
from supervisor.ledger import Delivery
from supervisor.workers import Pool
from workernode.protocol import Outcome, Target
from workernode.settings import Settings
from workernode.upstream import upstream_target

log = logging.getLogger(__name__)

SelfCheck = Callable[[Target, bool, Callable[[SelfChecked], None]], None]


class UpstreamWatch:
    """The node's view of upstream, as fitness judges it. `use` is not called for a local model."""

    def __init__(
        self, fitness: FitnessStateMachine, pool: Pool, incidents: Incidents, self_check: SelfCheck,
        post: Callable[[SelfChecked], None],
    ) -> None:  # fmt: skip
        """Begin with nothing known.

        Args:
            fitness: decides whether upstream lets this node serve.
            pool: the workers, which get the target and the holds.
            incidents: where faults of upstream that need a person go.
            self_check: checks in the background whether upstream serves this node (assembly.Parts).
            post: takes the result of a check, from any thread.
        """
        self._fitness, self._pool, self._incidents = fitness, pool, incidents
        self._self_check, self._post = self_check, post
        self._hold = fitness.hold
        self._target: Target | None = None

    def use(self, settings: Settings) -> None:
        """Have workers and checks ask the upstream that the settings name, with its key and headers."""
        self._target = upstream_target(settings)
        self._pool.set_target(self._target)

    def check_at_start(self) -> None:
        """Check in the background whether upstream serves this node."""
        self._check(is_starting=True)

    def ended(self, now: float, delivery: Delivery, outcome: Outcome, is_model_ready: bool) -> None:
        """Pass on to fitness what the outcome of a task shows of upstream, if a worker ran the task.

        Args:
            now: monotonic.
            is_model_ready: False: the local model server is down. That it does not answer is no news then: its
                lifecycle closes the intake, and reports if it stays down.
        """
        if not delivery.handed_at or (delivery.rejection is not None and not delivery.is_probe):
            return
        fault = outcome.fault
        self._fitness.ended(
            now, outcome.asked_at or delivery.handed_at,
            None if fault is not None and fault.kind in OUTAGES and not is_model_ready else fault,
            tokens=outcome.prompt_tokens + outcome.completion_tokens, upstream_answered=outcome.upstream_answered,
            was_probe=delivery.is_probe, request_id=outcome.request_id or delivery.request_id,
        )  # fmt: skip

    def pass_on(self, now: float) -> None:
        """Pass on what fitness has decided since: holds to the workers, changes to the log, faults to people."""
        if self._fitness.hold != self._hold:
            self._hold = self._fitness.hold
            self._pool.broadcast(self._hold)
        if self._fitness.takes_self_check(now):
            self._check(is_starting=False)
        for change in self._fitness.changes():
            log.warning("%s: %s", change.state.value, change.text, extra={"event": f"node_{change.state.value}"})
        for report in self._fitness.reports():
            match report:
                case Begin():
                    self._incidents.begin(report.key, report.reason, report.message)
                case End():
                    self._incidents.end(report.key)

    def _check(self, *, is_starting: bool) -> None:
        assert self._target is not None
        self._self_check(self._target, is_starting, self._post)
