"""The postmaster: start → serve → drain → leave. The one thread that owns the supervisor's state.

It waits for workers, broker, child, signals and the clock at once, and has the dispatcher (dispatcher.py), the counter
(broker.py), the workshop (pool.py) and the child (llamafile.py) act; no call here waits for any of them.
"""

from __future__ import annotations

import logging
import os
import queue
import selectors
import signal
import socket
import time
import uuid
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from supervisor.broker.client import Broker
from supervisor.concurrency.controller import Throttle
from supervisor.dispatcher import Dispatcher
from supervisor.events import BrokerDown, BrokerUp, Event, FaultFound, Received, RetryHere, Stored, Wake
from supervisor.fitness import preflight as firstlook
from supervisor.fitness.breaker import Admission, Begin, End, Fitness, Intake
from supervisor.fitness.breaker import State as Fit
from supervisor.fitness.messages import Words
from supervisor.ledger import Delivery
from supervisor.observability.overview import Overview, Rooms
from supervisor.observability.snapshot import About
from supervisor.report import Reporter
from supervisor.workers import stream_ender as standin
from supervisor.workers.pool import CRASHES_TO_REPORT, Handle, Pool
from workernode import __version__, record
from workernode.protocol import FromWorker, Outcome, RateLimitReport, Ready, Target
from workernode.settings import Settings

if TYPE_CHECKING:
    from supervisor.model_server.lifecycle import Llamafile

log = logging.getLogger(__name__)

HOUSEKEEPING = 1.0  # seconds between looks at the workers, the broker and the clock
WORKERS_LEAVE = 2.0  # seconds that idle workers get to leave
# An unfit node that sends a task back leaves the subscription for so long, or every second task would come right back
# to it and be given up with a healthy node idle beside it. Tasks that are older than this have waited for nobody: they
# are taken without a pause, so that their clients get the error soon (spec 5).
ASIDE = 2.0  # seconds
UNFIT_STATUSES = ("unfit", "key_refused", "quota_used_up", "model_unknown")
REPORT_AFTER = 60.0  # seconds of an outage after which it is more than something that passes


class State(Enum):
    """Where the node is in its life."""

    STARTING = "starting"  # not everything that it needs is there
    SERVING = "serving"  # takes messages, or would if it may
    DRAINING = "draining"  # takes none; what is in flight is finished
    LEAVING = "leaving"  # nothing is in flight; the local model is asked to leave
    STOPPED = "stopped"  # nothing is left


MOVES = {
    (State.STARTING, "ready"): State.SERVING,
    (State.STARTING, "drain"): State.DRAINING,
    (State.SERVING, "drain"): State.DRAINING,
    (State.DRAINING, "empty"): State.LEAVING,
    (State.LEAVING, "alone"): State.STOPPED,
}  # a pair that is not here is a bug, and says so


class Exit(Enum):
    """How the process ends."""

    DONE = 0  # asked to stop, and nothing was left undone that could be done
    FORCED = 1  # a second signal: ended at once; what was in flight is handed out again by the broker
    BAD_SETTINGS = 78  # EX_CONFIG of sysexits.h: the environment cannot be used


class Node:
    """The whole node. `run` is called once, from the main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = State.STARTING
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._woken = False
        self._signals: list[int] = []
        self._forced = False
        self._drain_until = float("inf")
        self._next_look = self._next_sample = 0.0
        host = socket.gethostname()
        self._identity = record.Node(f"{host}-{uuid.uuid4().hex[:8]}", host, settings.node_type, __version__)
        self._pool = Pool(settings, self._identity, self._selector)
        self._broker = Broker(settings, self.post)
        self._broker_up = False
        self._broker_fault = "not connected yet"
        self._broker_since = time.monotonic()
        self._dispatcher = Dispatcher(settings, self._identity, self._broker, self._pool, self)
        self._throttle = Throttle(settings)
        self._fitness = Fitness(settings.max_process_num, _words(settings))
        self._hold = self._fitness.hold
        self._gate = self._fitness.gate(time.monotonic())
        self._reporter = Reporter(settings)
        self._reported: set[str] = set()
        self._child: Llamafile | None = None
        self._child_ready = settings.node_type == "remote"
        about = About(self._identity.id, settings.model_name, settings.node_type, __version__)
        self._rooms = Rooms(settings, self._dispatcher, self._pool, self._broker, self._throttle, self._fitness)
        self._overview = Overview(self._rooms, about)
        self._metrics = self._overview.metrics

    # --- the loop ---

    def run(self) -> Exit:
        """Serve until a signal says stop. Returns how it ended."""
        self._start()
        try:
            while self._state is not State.STOPPED:
                self._turn()
        finally:
            self._stop()
        return Exit.FORCED if self._forced else Exit.DONE

    def post(self, event: Event) -> None:
        """Tell the node something, from any thread."""
        self._events.put(event)
        if not self._woken:
            self._woken = True
            os.write(self._wake_writer, b".")

    def _start(self) -> None:
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, ("wake", None))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        settings = self._settings
        about = {"version": __version__, "node": self._identity.id, "workers": settings.worker_processes}
        log.info("starting", extra={"event": "starting", **about, "slots": settings.max_process_num})
        self._pool.start()  # before the broker's client: its threads do not survive a fork
        self._broker.start()
        if settings.node_type == "remote":
            self._pool.aim(Target(settings.api_url, settings.api_key))
            firstlook.start(settings, lambda trouble: self.post(FaultFound(trouble)))
        else:
            self._start_child()

    def _start_child(self) -> None:
        from supervisor.model_server.lifecycle import Llamafile  # a remote node carries none of it

        self._child = self._rooms.child = Llamafile(self._settings, lambda: self.post(Wake()))
        self._pool.aim(Target(self._child.base_url, self._child.api_key))
        self._child.start(time.monotonic())

    def _turn(self) -> None:
        """Wait for whatever comes first, and deal with all that has come."""
        for key, _ in self._selector.select(self._patience()):
            kind, handle = key.data
            if kind == "wake":
                os.read(self._wake_reader, 4096)
                self._woken = False
            elif kind == "pipe":
                for message in self._pool.collect(handle):
                    self._hear(message)
            elif kind == "death":
                self._bury(handle)
        while not self._events.empty():
            self._take_in(self._events.get_nowait())
        now = time.monotonic()
        if self._signals:
            self._heed_signals(now)
        if self._child is not None:
            self._look_at_child(now)
        if now >= min(self._next_look, self._pool.next_check()):
            self._look(now)
        if now >= self._next_sample:
            self._next_sample = now + self._settings.sample_interval
            if self._throttle.sample(self._dispatcher.running, self._pool.said()) and self._child is not None:
                self._child.progress(now)  # tokens come: it lives, whatever /health says
        self._heed_fitness()
        self._dispatcher.send_back(now)
        self._dispatcher.retry_records(now)
        self._dispatcher.hand_over()
        self._set_intake(now)
        self._drain(now)
        self._show(now)

    def _patience(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        due = min(
            self._next_look, self._next_sample, self._overview.next_look(),
            self._broker.next_burst(), self._pool.next_check(),
            self._dispatcher.next_retry(), self._drain_until,
        )  # fmt: skip
        if self._gate.room == 0:  # the gate that the intake was set by: asked anew it may just have opened, unheeded
            due = min(due, self._gate.again_at)
        wakeup = self._child.next_wakeup() if self._child else None
        return max(0.0, (due if wakeup is None else min(due, wakeup)) - now)

    def _take_in(self, event: Event) -> None:
        match event:
            case Received():
                self._broker.seen(event)
                if self._dispatcher.receive(event):
                    self._metrics.taken(event.redeliveries)
                else:
                    self._metrics.duplicate()
            case RetryHere():
                if self._dispatcher.receive(event.received):
                    self._metrics.taken(event.received.redeliveries)
            case Stored():
                if not event.fault and not event.dead_letter:
                    self._metrics.record_stored()
                self._dispatcher.stored(event)
            case BrokerUp():
                self._set_broker(True, "")
            case BrokerDown():
                self._set_broker(False, event.why)
            case FaultFound():
                self._fitness.found(time.monotonic(), event.trouble)
            case Wake():
                pass  # it only wakes the loop

    def _hear(self, message: FromWorker) -> None:
        """What a worker says."""
        match message:
            case Outcome():
                self._dispatcher.decided(message)
            case RateLimitReport():
                self._metrics.limit_seen(message)
                self._fitness.limit_seen(time.monotonic(), message)
            case Ready():
                log.debug("worker ready", extra={"event": "worker_ready", "pid": message.pid})

    # --- what the dispatcher asks and reports (dispatcher.Hooks) ---

    def admit(self, now: float, age: float) -> Admission:
        """May a task be run? Fitness decides."""
        return self._fitness.admit(now, age)

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was decided: what it says of upstream."""
        self._throttle.answered(outcome)
        self._metrics.decided(outcome)
        if delivery.handed_at and (delivery.rejection is None or delivery.is_probe):
            self._fitness.ended(
                time.monotonic(), outcome.asked_at or delivery.handed_at, outcome.fault,
                upstream_answered=outcome.upstream_answered, was_probe=delivery.is_probe, tokens=outcome.prompt_tokens +
                outcome.completion_tokens,
            )  # fmt: skip

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """The message has left this node. One that an unfit node sent back is to go to another."""
        self._metrics.settled(outcome.decision)
        young = time.time() - delivery.received.published < ASIDE
        is_empty = len(self._dispatcher) == 0
        if outcome.status in UNFIT_STATUSES and young and is_empty and self._fitness.state is Fit.UNFIT:
            self._broker.step_aside(ASIDE)

    # --- how much to take ---

    def _set_intake(self, now: float) -> None:
        """Take no more from the broker than there is room for (spec 3, last point)."""
        if self._state is State.STARTING and self._is_ready():
            self._move("ready")
        gate = self._gate = self._fitness.gate(now)
        if self._state is not State.SERVING or not self._child_ready or gate.intake is Intake.HOLD:
            self._broker.allow(0)
            return
        cap = min(self._throttle.cap, self._fitness.cap)
        # One whose record is on its way holds no slot: the next may come meanwhile. Only one: with the one that the
        # library keeps beforehand, that makes the two that may be unacknowledged beyond the cap.
        room = cap - len(self._dispatcher) + min(1, self._dispatcher.unrecorded)
        if gate.intake is Intake.ONE_AT_A_TIME:  # a probe that hangs must not keep others from their error
            room = min(room, 1 - (len(self._dispatcher) - self._dispatcher.running))
        if room <= 0:
            self._throttle.was_full()
        self._broker.allow(min(room, gate.room, self._pool.room() - self._dispatcher.parked))

    def _heed_fitness(self) -> None:
        """Pass on what the node's fitness says: holds to the workers, changes to the log, troubles to people."""
        if self._fitness.hold != self._hold:
            self._hold = self._fitness.hold
            self._pool.tell(self._hold)
        for change in self._fitness.changes():
            log.warning("%s: %s", change.state.value, change.text, extra={"event": f"node_{change.state.value}"})
        for report in self._fitness.reports():
            match report:
                case Begin():
                    self._reporter.begin(report.key, report.reason, report.message)
                    self._overview.reports.note(time.monotonic(), report.reason, report.message)
                case End():
                    self._reporter.end(report.key)

    # --- workers, broker, child ---

    def _bury(self, handle: Handle) -> None:
        last, died = self._pool.reap(handle)
        for message in last:
            self._hear(message)
        about = {"worker": died.worker, "why": died.why, "tasks": len(died.jobs), "crashes": died.crashes}
        log.error("worker %d died: %s", died.worker, died.why, extra={"event": "worker_died", **about})
        self._metrics.worker_died()
        self._dispatcher.orphaned(died)
        if died.crashes >= CRASHES_TO_REPORT:
            self._report(
                "workers", "GeneralError",
                f"worker processes die as soon as they start ({died.why}); see the log of {self._identity.host}",
            )  # fmt: skip

    def _set_broker(self, up: bool, why: str) -> None:
        if up == self._broker_up and why == self._broker_fault:
            return
        if up != self._broker_up:
            self._broker_since = time.monotonic()
        self._broker_up, self._broker_fault = up, why
        if up:
            log.info("connected to Pulsar", extra={"event": "broker_up"})
            self._mended("broker")
        else:
            about = {"event": "broker_down", "why": why}
            log.warning("no connection to Pulsar: %s; tried again until it works", why, extra=about)

    def _look(self, now: float) -> None:
        """What has to be looked at, because nobody tells."""
        self._next_look = now + HOUSEKEEPING
        self._pool.check(now)
        if self._pool.steady(now):
            self._mended("workers")
        if self._broker_up and not self._broker.connected():
            self._set_broker(False, "the connection was lost")
        elif not self._broker_up and self._broker.connected():
            self._set_broker(True, "")
        if not self._broker_up and now - self._broker_since >= REPORT_AFTER:
            self._report(
                "broker", "MessageQueueConnectionError",
                f"no connection to Pulsar for more than {REPORT_AFTER:g} s: {self._broker_fault}",
            )  # fmt: skip

    def _look_at_child(self, now: float) -> None:
        from supervisor.model_server.lifecycle import What

        assert self._child is not None
        for event in self._child.tick(now):
            match event.what:
                case What.READY:
                    self._child_ready = True
                    self._throttle.set_slots(self._child.facts.slots or self._settings.local_parallel)
                    self._mended("child")
                    misfit = self._child.misfit()
                    if misfit is not None:
                        self._report("misfit", misfit.reason, misfit.message)
                case What.DOWN:
                    self._child_ready = False
                case What.FAILED:
                    if event.diagnosis is not None:
                        self._report("child", event.diagnosis.reason, event.diagnosis.message)
                case What.STOPPED:
                    self._child = self._rooms.child = None
                    return

    def _report(self, key: str, reason: str, message: str) -> None:
        """Tell a person, once an occurrence; the reporter repeats it while it lasts."""
        if key not in self._reported:
            self._reported.add(key)
            self._reporter.begin(key, reason, message)
            self._overview.reports.note(time.monotonic(), reason, message)

    def _mended(self, key: str) -> None:
        if key in self._reported:
            self._reported.remove(key)
            self._reporter.end(key)

    # --- life ---

    def _is_ready(self) -> bool:
        return self._broker_up and self._pool.ready() > 0 and self._child_ready

    def _move(self, cause: str) -> None:
        self._state = MOVES[self._state, cause]
        if self._state is not State.STOPPED:  # that is told when it is so
            log.info("%s", self._state.value, extra={"event": self._state.value})

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _heed_signals(self, now: float) -> None:
        while self._signals:
            name = signal.Signals(self._signals.pop(0)).name
            if self._state in (State.DRAINING, State.LEAVING):
                log.warning("%s again: stopping at once", name, extra={"event": "forced"})
                self._forced = True
                self._drain_until = now
                continue
            limit, tasks = self._settings.drain_timeout, len(self._dispatcher)
            log.info("%s: finishing %d tasks, at most %g s", name, tasks, limit, extra={"event": "asked_to_stop"})
            self._drain_until = now + limit
            self._move("drain")
            self._overview.leaving(limit + WORKERS_LEAVE)

    def _drain(self, now: float) -> None:
        """While draining: leave when nothing is in flight, or when the time is over."""
        if self._state is State.DRAINING:
            self._dispatcher.give_back_unbegun()
            if len(self._dispatcher) and now >= self._drain_until:
                self._leave_the_rest()
            elif len(self._dispatcher):
                return
            self._dispatcher.send_back(now, everything=True)
            self._drain_until = float("inf")
            self._move("empty")
            if self._child is not None:
                self._child.stop(now)
        if self._state is State.LEAVING and (self._child is None or self._forced):
            self._move("alone")

    def _leave_the_rest(self) -> None:
        """DRAIN_TIMEOUT is over: what is left goes back to the broker, except what a client has begun to see."""
        left = self._dispatcher.left_over()
        about = {"event": "left_over", "requests": left[:100]}
        log.warning("%d tasks were not finished in time and go back to the broker", len(left), extra=about)
        seen = self._pool.seen()
        self._pool.kill()
        if self._forced:
            return
        ended = standin.run(self._dispatcher.streams_to_end(seen), self._settings, self._identity)
        self._dispatcher.give_back_the_rest(seen, ended)
        self._broker.flush()
        while not self._events.empty():
            self._take_in(self._events.get_nowait())

    def _stop(self) -> None:
        self._pool.stop(0.0 if self._forced else WORKERS_LEAVE)
        if self._child is not None:
            self._child.kill_now()
        self._broker.close()
        self._reporter.close(2.0)
        log.info("stopped", extra={"event": "stopped"})

    # --- what people see ---

    def _show(self, now: float) -> None:
        why = []
        if self._state in (State.DRAINING, State.LEAVING):
            why.append("draining: the node was asked to stop")
        if not self._broker_up:
            why.append(f"no connection to Pulsar: {self._broker_fault}")
        if not self._pool.ready():
            why.append("no worker process is ready")
        if not self._child_ready:
            fault = self._child.diagnosis() if self._child else None
            why.append(fault.message if fault else "the local model is not ready yet")
        if self._fitness.state is Fit.UNFIT:
            why.append(self._fitness.status(now).reason)
        self._overview.show(now, self._state.value, why, self._broker_up, self._gate)


def _words(settings: Settings) -> Words:
    parts = urlsplit(settings.api_url or "")
    aimodel = f"{settings.aimodel_namespace}/{settings.aimodel_name}" if settings.aimodel_name else ""
    origin = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    return Words(origin, settings.upstream_model or settings.model_name, aimodel)
