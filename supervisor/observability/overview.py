"""Publishes the node's state: snapshots for the status server, messages to systemd.

Part of the main thread: it reads the node's other parts (sources.py) and changes nothing in them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from supervisor.observability import systemd
from supervisor.observability.history import RecentFaults, RecentNotices
from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import NodeInfo, Snapshot, Upcoming
from supervisor.observability.sources import Fitness, ModelServer, Sources
from supervisor.observability.spending import Spending
from supervisor.observability.status_server import StatusServer
from supervisor.states import CAP_REASONS, FitnessState, Intake, ModelServerState, NodeState, cap_in_force
from workernode.redaction import Redactor
from workernode.settings import Settings

START_EXTENSION = 30.0  # seconds that systemd is asked to wait longer, again and again, while the node starts
INTERVAL = 1.0  # seconds between snapshots; a change of what /readyz answers is published at once


class Overview:
    """Publishes the node's state. Owned by the main thread."""

    def __init__(self, settings: Settings, info: NodeInfo, sources: Sources) -> None:
        """Start the status server, unless STATUS_ADDR is off.

        Args:
            settings: of the node.
            info: what stays the same while the node runs.
            sources: the parts of the node whose figures are shown.

        Raises:
            OSError: the address cannot be listened on; its `strerror` says what to do.
        """
        self._settings, self._sources = settings, sources
        self.metrics = Metrics(info)
        self._spending = Spending()
        self.clock_difference = 0.0  # seconds; set by the node (PublisherClocks.largest)
        self._reports = RecentNotices()
        self._faults = RecentFaults(Redactor(settings.secrets, as_json=False))
        logging.getLogger().addHandler(self._faults)
        self._server = StatusServer(settings, info, self.metrics) if settings.status_addr else None
        self._published: object = None
        self._next = 0.0
        self._watchdog_interval = systemd.watchdog_interval()
        self._next_watchdog = 0.0

    def note_report(self, at: float, reason: str, message: str) -> None:
        """Show a report to the management node on the page, too.

        Args:
            at: monotonic seconds.
            reason: one of spec 1.3.
            message: what happened, where, what to do.
        """
        self._reports.add(at, reason, message)

    def next_update(self) -> float:
        """Monotonic time at which `update` has something to do even if nothing changes."""
        return min(self._next, self._next_watchdog if self._watchdog_interval else float("inf"))

    def update(self, now: float, state: NodeState, why: Sequence[str], broker_up: bool, intake: Intake) -> None:
        """Publish the node's state, if it changed or the last snapshot is old. Called in every turn of the main loop.

        Args:
            now: monotonic seconds.
            state: where the node is in its lifecycle.
            why: why the node is not ready, a sentence each; empty: it is ready.
            broker_up: the broker is connected.
            intake: what fitness lets the intake do.
        """
        if self._watchdog_interval and now >= self._next_watchdog:  # a main loop that hangs does not come here
            self._next_watchdog = now + self._watchdog_interval
            systemd.watchdog()
        published = (state, tuple(why))
        if published == self._published and now < self._next:
            return
        if published != self._published:
            if not why:
                systemd.ready()
            systemd.status("; ".join(why) or "takes tasks")
        if state is NodeState.STARTING:  # a local model may load for long
            systemd.extend_timeout(START_EXTENSION)
        self._published, self._next = published, now + INTERVAL
        if self._server is not None:
            self._server.update(self._snapshot(now, state, why, broker_up, intake))

    def _cost(self, now: float) -> str:
        prices = self._settings.prices
        return f"{self._spending.last_hour(now, self.metrics.cost):.4f} {prices.currency}" if prices else ""

    def stopping(self, seconds: float) -> None:
        """Tell systemd that the node was asked to stop, and needs at most so many seconds."""
        systemd.stopping(seconds)

    def _snapshot(self, now: float, state: NodeState, why: Sequence[str], broker_up: bool, intake: Intake) -> Snapshot:
        sources = self._sources
        limit, fitness, model = sources.limit, sources.fitness, sources.model_server
        cap = cap_in_force(limit.cap, fitness.cap)
        cap_code = "rate_limit" if cap < limit.cap else limit.code
        in_flight = len(sources.tasks)
        return Snapshot(
            at=now,
            state=state.value,
            why=tuple(why),
            next=tuple(_upcoming(now, fitness, model)),
            broker_connected=broker_up,
            fitness=fitness.state.value,
            fitness_why=fitness.status(now).reason,
            intake=_intake(state, intake, in_flight >= cap, not why, model),
            in_flight=in_flight,
            cap=cap,
            cap_code=cap_code,
            cap_reason=CAP_REASONS["rate_limit"] if cap_code == "rate_limit" else limit.why,
            slots=sources.workers.slots(),
            totals=self.metrics.totals,
            tokens=sources.workers.tokens(),
            cost=self._cost(now),
            records_held=sources.tasks.unrecorded,
            held_back=sources.broker.held_naks,
            clock_difference=self.clock_difference,
            workers=self._settings.worker_processes,
            workers_ready=sources.workers.ready(),
            child=model.state.value if model else "",
            child_lines=tuple(model.tail()) if model else (),
            cpu_percent=limit.resources.cpu_percent,
            memory_percent=limit.resources.memory_percent,
            memory_free_bytes=limit.resources.memory_free_bytes,
            memory_limit_bytes=limit.resources.memory_limit_bytes,
            gpus=limit.resources.gpus,
            reports=self._reports.newest_first,
            faults=self._faults.newest_first,
        )


def _upcoming(now: float, fitness: Fitness, model: ModelServer | None) -> list[Upcoming]:
    """What will happen without anybody's help."""
    status = fitness.status(now)
    coming = []
    if status.hold_until is not None:
        coming.append(Upcoming("upstream's rate limit lifts", status.hold_until))
    if fitness.state in (FitnessState.UNFIT, FitnessState.AWAY):
        coming.append(Upcoming("a task is tried upstream as a probe", status.next_probe_at))
    if model is not None and model.state in (ModelServerState.BACKOFF, ModelServerState.FAILED):
        coming.append(Upcoming("the local model is started again", model.next_wakeup()))
    return coming


def _intake(state: NodeState, intake: Intake, is_full: bool, is_ready: bool, model: ModelServer | None) -> str:
    """What the intake does: a key of snapshot.INTAKES."""
    if state is NodeState.SERVING and intake is Intake.ONE_AT_A_TIME:
        return "one_at_a_time"
    if state is not NodeState.SERVING or not is_ready:
        return "closed"
    if intake is Intake.HOLD:
        return "held"
    if model is not None and model.state in (ModelServerState.FALLING_ASLEEP, ModelServerState.ASLEEP):
        return "asleep"
    return "full" if is_full else "open"
