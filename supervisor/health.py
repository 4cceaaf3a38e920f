"""What keeps the node from serving, since when, and which of it is reported to a person."""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisor.fitness import OUTAGES, Begin, End, FitnessStateMachine
from supervisor.ledger import Delivery
from supervisor.machine import Clock
from supervisor.report import Reporter
from supervisor.states import NodeState
from workernode.protocol import Outcome

log = logging.getLogger(__name__)

REPORT_AFTER = 60.0  # seconds without the broker before it is reported: a shorter outage passes by itself


class Incidents:
    """Failures that need a person: each is reported once, until it is over. The Reporter repeats it while it lasts."""

    def __init__(self, reporter: Reporter, note: Callable[[float, str, str], None], clock: Clock) -> None:
        """Start without an incident.

        Args:
            reporter: writes Kubernetes events, or the log.
            note: shows a report on the page; gets monotonic time, reason, message.
            clock: the time.
        """
        self._reporter = reporter
        self._note = note
        self._clock = clock
        self._open: set[str] = set()

    def begin(self, key: str, reason: str, message: str) -> None:
        """Report the failure, unless it is known already.

        Args:
            key: names the failure within this node: "broker", "workers" ...
            reason: one of spec 1.3.
            message: what happened, where, what to do.
        """
        if key not in self._open:
            self._open.add(key)
            self._reporter.begin(key, reason, message)
            self._note(self._clock.monotonic(), reason, message)

    def end(self, key: str) -> None:
        """The failure is over, if there was one."""
        if key in self._open:
            self._open.remove(key)
            self._reporter.end(key)


class BrokerState:
    """Whether the broker is connected, since when, and why not."""

    def __init__(self, incidents: Incidents, clock: Clock) -> None:
        self.is_up = False
        self.fault = "not connected yet"
        self._since = clock.monotonic()
        self._incidents = incidents
        self._clock = clock

    def connected(self) -> None:
        """The connection is there."""
        if not self.is_up:
            self.is_up, self.fault, self._since = True, "", self._clock.monotonic()
            log.info("connected to Pulsar", extra={"event": "broker_up"})
            self._incidents.end("broker")

    def lost(self, why: str) -> None:
        """The connection is lost. Logged again whenever the reason changes."""
        if not self.is_up and why == self.fault:
            return
        if self.is_up:
            self._since = self._clock.monotonic()
        self.is_up, self.fault = False, why
        about = {"event": "broker_down", "why": why}
        log.warning("no connection to Pulsar: %s; tried again until it works", why, extra=about)

    def check(self, now: float, is_connected: bool) -> None:
        """Follow the state of the client library's connection; report an outage that lasts."""
        if self.is_up and not is_connected:
            self.lost("the connection was lost")
        elif not self.is_up and is_connected:
            self.connected()
        if not self.is_up and now - self._since >= REPORT_AFTER:
            self._incidents.begin(
                "broker", "MessageQueueConnectionError",
                f"no connection to Pulsar for more than {REPORT_AFTER:g} s: {self.fault}",
            )  # fmt: skip


def report_fitness(fitness: FitnessStateMachine, incidents: Incidents) -> None:
    """Write to the log how the node's fitness has changed, and report what a person must know of it."""
    for change in fitness.changes():
        log.warning("%s: %s", change.state.value, change.text, extra={"event": f"node_{change.state.value}"})
    for report in fitness.reports():
        match report:
            case Begin():
                incidents.begin(report.key, report.reason, report.message)
            case End():
                incidents.end(report.key)


def why_not_ready(state: NodeState, broker: BrokerState, has_worker: bool, model_fault: str, unfit: str) -> list[str]:
    """Return why the node takes no tasks, a sentence each; empty if it does (/readyz).

    Args:
        state: where the node is in its lifecycle.
        broker: the connection to the broker.
        has_worker: whether a worker process takes jobs.
        model_fault: why the local model takes no requests; "" if it does, or if there is none.
        unfit: why upstream does not let the node serve; "" if it does.
    """
    why = []
    if state in (NodeState.DRAINING, NodeState.STOPPING):
        why.append("draining: the node was asked to stop")
    if not broker.is_up:
        why.append(f"no connection to Pulsar: {broker.fault}")
    if not has_worker:
        why.append("no worker process is ready")
    return why + [fault for fault in (model_fault, unfit) if fault]


def note_upstream(
    fitness: FitnessStateMachine, now: float, delivery: Delivery, outcome: Outcome, is_model_ready: bool
) -> None:
    """Pass on to fitness what the outcome of a task shows of upstream, if a worker ran the task.

    Args:
        now: monotonic.
        is_model_ready: False: the local model server is down. That it does not answer is no news then: its lifecycle
            closes the intake, and reports if it stays down.
    """
    if not delivery.handed_at or (delivery.rejection is not None and not delivery.is_probe):
        return
    fault = outcome.fault
    fitness.ended(
        now, outcome.asked_at or delivery.handed_at,
        None if fault is not None and fault.kind in OUTAGES and not is_model_ready else fault,
        tokens=outcome.prompt_tokens + outcome.completion_tokens, upstream_answered=outcome.upstream_answered,
        was_probe=delivery.is_probe, request_id=outcome.request_id or delivery.request_id,
    )  # fmt: skip


def why_workers_die(why: str, host: str) -> str:
    """Return the report about workers that die again and again at their start."""
    return f"worker processes die as soon as they start ({why}); see the log of {host}"


class NoLocalModel:
    """What a remote node has instead of a supervisor.model_server.LocalModel: nothing to wait for."""

    is_ready = is_stopped = True
    is_asleep = False

    def request(self, now: float) -> bool:
        """No task waits for it."""
        return True

    def tick(self, now: float, tasks: int) -> None:
        """Nothing happens to it."""

    def next_tick(self) -> float:
        """Never."""
        return float("inf")

    def note_in_flight(self, tasks: int) -> None:
        """Nothing depends on it."""

    def tokens_came(self, now: float) -> None:
        """Nothing depends on it."""

    def why_not_ready(self) -> str:
        """Return no reason."""
        return ""

    def stop(self, now: float) -> None:
        """There is nothing to stop."""

    def kill(self) -> None:
        """There is nothing to kill."""
