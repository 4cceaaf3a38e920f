"""What the node shows of itself: a snapshot for probes, Prometheus and the page, and a word to systemd.

Part of the owner's thread: it looks at the other rooms and changes nothing in them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.broker.client import Broker
from supervisor.concurrency.controller import Throttle
from supervisor.dispatcher import Dispatcher
from supervisor.fitness.breaker import Fitness, Gate
from supervisor.observability import systemd as notify
from supervisor.observability.history import Last, LastFaults
from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import About, Next, Snapshot
from supervisor.observability.status_server import StatusServer
from supervisor.states import FitnessState, Intake
from supervisor.workers.pool import Pool
from workernode.redaction import Redactor
from workernode.settings import Settings

if TYPE_CHECKING:
    from supervisor.model_server.lifecycle import Llamafile

START_PATIENCE = 30.0  # seconds that systemd is asked for, again and again, while the node starts
EVERY = 1.0  # seconds between snapshots; a change of what /readyz says is shown at once


@dataclass
class Rooms:
    """What is looked at."""

    settings: Settings
    dispatcher: Dispatcher
    pool: Pool
    broker: Broker
    throttle: Throttle
    fitness: Fitness
    child: Llamafile | None = None


class Overview:
    """Shows the node. Owned by the main thread."""

    def __init__(self, rooms: Rooms, about: About) -> None:
        """Start the status server, unless STATUS_ADDR is off.

        Raises:
            OSError: the address cannot be listened on; its `strerror` says what to do.
        """
        self._rooms = rooms
        self.metrics = Metrics(about)
        self.reports = Last()
        self._faults = LastFaults(Redactor(rooms.settings.secrets, as_json=False))
        logging.getLogger().addHandler(self._faults)
        self._server = StatusServer(rooms.settings, about, self.metrics) if rooms.settings.status_addr else None
        self._shown: object = None
        self._next = 0.0
        self._watchdog_every = notify.watchdog_interval()
        self._next_watchdog = 0.0

    def next_look(self) -> float:
        """Monotonic time at which `show` has something to do without a change."""
        return min(self._next, self._next_watchdog if self._watchdog_every else float("inf"))

    def show(self, now: float, state: str, why: list[str], broker_up: bool, gate: Gate) -> None:
        """Show the node as it is.

        Args:
            why: why it is not ready, a sentence each.
        """
        if self._watchdog_every and now >= self._next_watchdog:  # tied to the loop: a loop that hangs says nothing
            self._next_watchdog = now + self._watchdog_every
            notify.watchdog()
        shown = (state, tuple(why))
        if shown == self._shown and now < self._next:
            return
        if shown != self._shown:
            if not why:
                notify.ready()
            notify.status("; ".join(why) or "takes tasks")
        if state == "starting":  # a local model may load for long
            notify.extend_timeout(START_PATIENCE)
        self._shown, self._next = shown, now + EVERY
        if self._server is not None:
            self._server.show(self._snapshot(now, state, why, broker_up, gate))

    def leaving(self, seconds: float) -> None:
        """The node was asked to stop, and takes at most so long."""
        notify.stopping(seconds)

    def _snapshot(self, now: float, state: str, why: list[str], broker_up: bool, gate: Gate) -> Snapshot:
        rooms = self._rooms
        throttle, fitness, child = rooms.throttle, rooms.fitness, rooms.child
        limited = fitness.cap < throttle.cap
        cap = min(fitness.cap, throttle.cap)
        return Snapshot(
            at=now,
            state=state,
            why=tuple(why),
            next=tuple(self._coming(now)),
            broker_connected=broker_up,
            fitness=fitness.state.value,
            intake=_intake(state, gate, len(rooms.dispatcher) >= cap, bool(why)),
            in_flight=len(rooms.dispatcher),
            cap=cap,
            cap_code="rate_limit" if limited else throttle.code,
            cap_reason="upstream refused calls by a rate limit" if limited else throttle.why,
            slots=rooms.pool.slots(),
            accounts=self.metrics.accounts,
            tokens=rooms.pool.tokens(),
            records_held=rooms.dispatcher.unrecorded,
            held_back=rooms.broker.held_naks,
            workers=rooms.settings.worker_processes,
            workers_ready=rooms.pool.ready(),
            child=child.state.value if child else "",
            child_lines=tuple(child.tail()) if child else (),
            cpu_percent=throttle.resources.cpu_percent,
            memory_percent=throttle.resources.memory_percent,
            memory_free_bytes=throttle.resources.memory_free_bytes,
            memory_limit_bytes=throttle.resources.memory_limit_bytes,
            reports=self.reports.told,
            faults=self._faults.told,
        )

    def _coming(self, now: float) -> list[Next]:
        """What will come by itself."""
        fitness, child = self._rooms.fitness.status(now), self._rooms.child
        coming = []
        if fitness.hold_until is not None:
            coming.append(Next("upstream's rate limit lifts", fitness.hold_until))
        if fitness.state is FitnessState.UNFIT:
            coming.append(Next("a task is tried upstream as a probe", fitness.next_probe_at))
        if child is not None and child.state.value in ("backoff", "failed"):
            coming.append(Next("the local model is started again", child.next_wakeup()))
        return coming


def _intake(state: str, gate: Gate, full: bool, not_ready: bool) -> str:
    """A key of snapshot.INTAKES."""
    if gate.intake is Intake.ONE_AT_A_TIME and state == "serving":
        return "one_at_a_time"
    if not_ready or state != "serving":
        return "closed"
    if gate.intake is Intake.HOLD:
        return "held"
    return "full" if full else "open"
