"""The postmaster: start → serve → drain → stop, and what becomes of every message in between.

One thread, the process's main one, owns all state here; the others only post events. It decides, and has the counter
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
from collections import deque
from enum import Enum
from types import FrameType

from supervisor import standin
from supervisor.broker import Broker
from supervisor.events import BrokerDown, BrokerUp, Event, Poke, Received, Stored
from supervisor.ledger import Delivery, Ledger, Place
from supervisor.pool import Died, Handle, Pool
from supervisor.status import Status
from workernode import __version__, record
from workernode.errors import broken_error, openai_error
from workernode.protocol import Decision, FromWorker, Job, LimitSeen, Outcome, Ready, Target, Verdict, Visible
from workernode.settings import Settings
from workernode.task import envelope_id

log = logging.getLogger(__name__)

HOUSEKEEPING = 1.0  # seconds between looks at the workers, the broker and the clock
STORE_RETRY = 1.0  # seconds before a record that could not be stored is sent again
WORKERS_LEAVE = 2.0  # seconds that idle workers get to leave
REPORT_AFTER = 60.0  # seconds of an outage after which it is more than something that passes


class State(Enum):
    """Where the node is in its life."""

    STARTING = "starting"  # not everything it needs is there
    SERVING = "serving"  # takes messages, or would if it may
    DRAINING = "draining"  # takes none; what is in flight is finished
    STOPPED = "stopped"  # nothing is left


MOVES = {
    (State.STARTING, "ready"): State.SERVING,
    (State.STARTING, "drain"): State.DRAINING,
    (State.SERVING, "drain"): State.DRAINING,
    (State.DRAINING, "ready"): State.DRAINING,
    (State.SERVING, "ready"): State.SERVING,
    (State.DRAINING, "drain"): State.DRAINING,
    (State.DRAINING, "done"): State.STOPPED,
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
        self._since = time.time()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._woken = False
        self._signals: list[int] = []
        self._forced = False
        self._drain_until = float("inf")
        host = socket.gethostname()
        self._identity = record.Node(f"{host}-{uuid.uuid4().hex[:8]}", host, settings.node_type, __version__)
        self._ledger = Ledger()
        self._parked: deque[Delivery] = deque()
        self._resend: list[tuple[float, int]] = []
        self._pool = Pool(settings, self._identity, self._selector)
        self._broker = Broker(settings, self.post)
        self._broker_up = False
        self._broker_fault = "not connected yet"
        self._broker_since = time.monotonic()
        self._next_look = 0.0
        self._shown: object = None
        self._status = Status(settings.status_addr) if settings.status_addr else None

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
        log.info(
            "starting",
            extra={
                "event": "starting",
                "version": __version__,
                "node": self._identity.id,
                "workers": self._settings.worker_processes,
                "slots": self._settings.max_process_num,
            },
        )
        self._pool.start()  # before the broker's client: its threads do not survive a fork
        self._broker.start()
        if self._settings.node_type == "remote":
            assert self._settings.api_url is not None
            self._pool.aim(Target(self._settings.api_url, self._settings.api_key))

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
        self._broker.burst(now)
        while self._resend and self._resend[0][0] <= now:
            self._record(self._resend.pop(0)[1])
        if now >= min(self._next_look, self._pool.next_check()):
            self._look(now)
        self._dispatch_parked()
        self._set_intake()
        if self._state is State.DRAINING:
            self._drained(now)
        self._show()

    def _patience(self) -> float:
        """Seconds until something is due."""
        due = min(self._next_look, self._broker.next_burst(), self._pool.next_check(), self._drain_until)
        if self._resend:
            due = min(due, self._resend[0][0])
        return max(0.0, due - time.monotonic())

    def _take_in(self, event: Event) -> None:
        match event:
            case Received():
                self._received(event)
            case Stored():
                self._stored(event)
            case BrokerUp():
                self._set_broker(True, "")
                self._move_when_ready()
            case BrokerDown():
                self._set_broker(False, event.why)
            case Poke():
                pass

    def _hear(self, message: FromWorker) -> None:
        """What a worker says."""
        match message:
            case Outcome():
                self._decided(message)
            case Ready():
                log.debug("worker ready", extra={"event": "worker_ready", "pid": message.pid})
                self._move_when_ready()
            case LimitSeen():
                pass

    # --- one message ---

    def _received(self, received: Received) -> None:
        self._broker.seen()
        request_id = envelope_id(received.payload)
        if self._ledger.was_answered(received, request_id):
            log.info("delivered again after it was answered", extra={"event": "duplicate", "request_id": request_id})
            self._broker.ack(received.message)
            return
        if self._ledger.holds(received):
            return  # after a lost connection the broker hands the same message out again; one ack covers both
        if request_id and self._ledger.is_open(request_id):
            self._broker.nak(
                received.message, self._settings.nak_delay
            )  # published twice: it comes back when the first is done
            return
        self._dispatch(self._ledger.open(received, request_id))

    def _dispatch(self, delivery: Delivery) -> None:
        """Hand it to a worker, or park it until one has room."""
        place = self._pool.hand(self._job(delivery))
        if place is None:
            delivery.place = Place.PARKED
            self._parked.append(delivery)
            return
        delivery.worker, delivery.slot = place
        delivery.place = Place.RUNNING

    def _job(self, delivery: Delivery) -> Job:
        received = delivery.received
        return Job(
            number=delivery.number,
            slot=-1,
            payload=received.payload,
            published=received.published,
            received=received.received,
            received_at=received.received_at,
            deadline=self._deadline(received),
            redeliveries=self._ledger.redeliveries(received),
            verdict=delivery.verdict,
        )

    def _deadline(self, received: Received) -> float:
        """Monotonic moment after which nobody waits. A publisher whose clock is ahead gains nothing by it."""
        age = max(0.0, received.received - received.published)
        return received.received_at + self._settings.task_timeout - age

    def _dispatch_parked(self) -> None:
        while self._parked and self._pool.room():
            self._dispatch(self._parked.popleft())

    def _decided(self, outcome: Outcome) -> None:
        """A worker is done with a job."""
        delivery = self._ledger.get(outcome.number)
        if delivery is None or delivery.worker is None:
            return
        self._pool.free(delivery.worker, delivery.slot)
        self._settle(delivery, outcome)

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """The decision stands: have it recorded, then carried out."""
        delivery.outcome = outcome
        delivery.place = Place.RECORDING
        delivery.waits_for = {"record", "letter"} if outcome.decision is Decision.DEAD_LETTER else {"record"}
        level = logging.INFO if outcome.status == "answered" else logging.WARNING
        log.log(level, "task %s", outcome.status, extra=_told(outcome, delivery))
        self._record(delivery.number)

    def _record(self, number: int) -> None:
        """Send what has to be stored before the message may go."""
        delivery = self._ledger.get(number)
        if delivery is None or delivery.outcome is None:
            return
        outcome = delivery.outcome
        if "record" in delivery.waits_for:
            self._broker.publish_record(number, outcome.record)
        if "letter" in delivery.waits_for:
            properties = {"reason": outcome.reason[:1000], "request_id": outcome.request_id, "node": self._identity.id}
            self._broker.dead_letter(number, delivery.received.payload, properties)

    def _stored(self, stored: Stored) -> None:
        delivery = self._ledger.get(stored.number)
        if delivery is None or delivery.outcome is None:
            return
        what = "letter" if stored.dead_letter else "record"
        if stored.fault:
            delivery.store_tries += 1
            log.warning(
                "%s not stored: %s; tried again",
                what,
                stored.fault,
                extra={"event": "not_stored", "request_id": delivery.request_id, "what": what, "why": stored.fault},
            )
            if all(number != stored.number for _, number in self._resend):
                self._resend.append((time.monotonic() + STORE_RETRY, stored.number))
            return
        delivery.waits_for.discard(what)
        if delivery.waits_for:
            return
        if delivery.outcome.decision is Decision.NAK:
            trouble = delivery.outcome.trouble
            pause = trouble.retry_after if trouble and trouble.retry_after else 0.0
            delay = 0.0 if delivery.outcome.status == "worker_died" else max(self._settings.nak_delay, pause)
            self._broker.nak(delivery.received.message, delay)
        else:
            self._broker.ack(delivery.received.message)
        self._ledger.close(delivery)

    # --- workers that die ---

    def _bury(self, handle: Handle) -> None:
        last, died = self._pool.reap(handle)
        for message in last:
            self._hear(message)
        jobs = {number: seen for number, seen in died.jobs.items() if self._is_running(number)}
        log.error(
            "worker %d died: %s",
            died.worker,
            died.why,
            extra={
                "event": "worker_died",
                "worker": died.worker,
                "why": died.why,
                "tasks": len(jobs),
                "crashes": died.crashes,
            },
        )
        for number, seen in jobs.items():
            delivery = self._ledger.get(number)
            if delivery is not None:
                self._orphaned(delivery, seen, died)

    def _is_running(self, number: int) -> bool:
        delivery = self._ledger.get(number)
        return delivery is not None and delivery.place is Place.RUNNING

    def _orphaned(self, delivery: Delivery, seen: Visible, died: Died) -> None:
        """Decide a task whose worker died, by how much of its answer had left (spec 3)."""
        deaths = self._ledger.died_with(delivery)
        told_before = delivery.verdict is not None
        reason = f"its worker died: {died.why}"
        if seen in (Visible.ENDING, Visible.ENDED):
            # ENDING: the end was in the kernel's hands, or about to be. It is taken as sent: of the two mistakes, a
            # second end would crash the gateway's handler (docs/decisions/0005-visible.md).
            self._settle(delivery, self._own_outcome(delivery, Decision.ACK, "answered", reason))
        elif seen is Visible.BEGUN and not told_before:
            delivery.verdict = Verdict("broken", Decision.ACK, broken_error(f"{reason}."), 0)
            self._dispatch(delivery)
        elif max(deaths - 1, self._ledger.redeliveries(delivery.received)) >= self._settings.max_redeliveries:
            text = f"Its worker process died {deaths} times with this request."
            if told_before:  # even telling the client kills workers
                self._settle(delivery, self._own_outcome(delivery, Decision.DEAD_LETTER, "poison", text))
            else:
                error = openai_error(f"The request could not be served. {text}", "server_error", "worker_died")
                delivery.verdict = Verdict("poison", Decision.DEAD_LETTER, error, 0)
                self._dispatch(delivery)
        elif told_before:
            self._dispatch(delivery)
        else:
            self._settle(delivery, self._own_outcome(delivery, Decision.NAK, "worker_died", reason))

    def _own_outcome(self, delivery: Delivery, decision: Decision, status: str, reason: str) -> Outcome:
        """The outcome of a task whose worker can tell no more."""
        received = delivery.received
        made = record.Record(
            request_id=delivery.request_id,
            delivery=delivery.number,
            node=self._identity,
            status=status,
            decision=decision,
            model=self._settings.model_name,
            ai_model_name=self._settings.aimodel_name or None,
            ai_model_namespace=self._settings.aimodel_namespace,
            request=record.Request(bytes=len(received.payload)),
            times=record.Times(received.published, received.received),
            redeliveries=self._ledger.redeliveries(received),
            end_reason="worker_died",
        )
        return Outcome(delivery.number, delivery.request_id, decision, status, record.encode(made), reason=reason)

    # --- life ---

    def _move(self, cause: str) -> None:
        before, self._state = self._state, MOVES[self._state, cause]
        if before is not self._state:
            self._since = time.time()
            log.info("%s", self._state.value, extra={"event": self._state.value})

    def _move_when_ready(self) -> None:
        if self._broker_up and self._pool.ready():
            self._move("ready")

    def _set_broker(self, up: bool, why: str) -> None:
        if up == self._broker_up and why == self._broker_fault:
            return
        if up != self._broker_up:
            self._broker_since = time.monotonic()
        self._broker_up, self._broker_fault = up, why
        if up:
            log.info("connected to Pulsar", extra={"event": "broker_up"})
        else:
            log.warning(
                "no connection to Pulsar: %s; tried again until it works",
                why,
                extra={"event": "broker_down", "why": why},
            )

    def _set_intake(self) -> None:
        """Take no more from the broker than there is room for (spec 3, last point)."""
        if self._state is not State.SERVING:
            self._broker.allow(0)
            return
        self._broker.allow(
            min(self._settings.max_process_num - len(self._ledger), self._pool.room() - len(self._parked))
        )

    def _look(self, now: float) -> None:
        """What has to be looked at, because nobody tells."""
        self._next_look = now + HOUSEKEEPING
        self._pool.check(now)
        if self._broker_up and not self._broker.connected():
            self._set_broker(False, "the connection was lost")
        elif not self._broker_up and self._broker.connected():
            self._set_broker(True, "")

    def _show(self) -> None:
        """Put what /readyz says where the status server finds it, when it has changed."""
        why = []
        if self._state is State.DRAINING:
            why.append("draining: the node was asked to stop")
        if not self._broker_up:
            why.append(f"no connection to Pulsar: {self._broker_fault}")
        if not self._pool.ready():
            why.append("no worker process is ready")
        shown = (self._state, tuple(why))
        if self._status is not None and shown != self._shown:
            self._shown = shown
            since = record.rfc3339(time.time())
            self._status.show(
                {"ready": not why, "state": self._state.value, "why": why, "since": since, "node": self._identity.id}
            )

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _heed_signals(self, now: float) -> None:
        while self._signals:
            name = signal.Signals(self._signals.pop(0)).name
            if self._state is State.DRAINING:
                log.warning("%s again: stopping at once", name, extra={"event": "forced"})
                self._forced = True
                self._drain_until = now
                return
            log.info(
                "%s: draining, at most %g s",
                name,
                self._settings.drain_timeout,
                extra={"event": "draining", "tasks": len(self._ledger)},
            )
            self._drain_until = now + self._settings.drain_timeout
            self._move("drain")

    def _drained(self, now: float) -> None:
        """Leave when nothing is in flight, or when the time is over."""
        for delivery in list(self._parked):
            if delivery.verdict is None:  # never begun: it goes back
                self._parked.remove(delivery)
                self._settle(delivery, self._own_outcome(delivery, Decision.NAK, "drained", "the node stops"))
        if len(self._ledger) == 0:
            self._broker.burst(now, everything=True)
            self._move("done")
        elif now >= self._drain_until:
            self._leave_the_rest()
            self._move("done")

    def _leave_the_rest(self) -> None:
        """DRAIN_TIMEOUT is over: what is left goes back to the broker, except what a client has begun to see."""
        left = list(self._ledger)
        log.warning(
            "%d tasks were not finished in time and go back to the broker",
            len(left),
            extra={"event": "left_over", "requests": [delivery.request_id for delivery in left][:100]},
        )
        seen = self._pool.seen()
        self._pool.kill()
        if self._forced:
            return
        ends = []
        for delivery in left:
            if delivery.place is Place.RUNNING and seen.get(delivery.number) is Visible.BEGUN:
                delivery.verdict = Verdict("broken", Decision.ACK, broken_error("the node was stopped."), 0)
                ends.append(self._job(delivery))
        for outcome in standin.run(ends, self._settings, self._identity):
            ended = self._ledger.get(outcome.number)
            if ended is not None:
                self._settle(ended, outcome)
        self._broker.flush()
        while not self._events.empty():
            self._take_in(self._events.get_nowait())

    def _stop(self) -> None:
        self._pool.stop(0.0 if self._forced else WORKERS_LEAVE)
        self._broker.close()
        log.info("stopped", extra={"event": "stopped"})


def _told(outcome: Outcome, delivery: Delivery) -> dict[str, object]:
    """What the log says of a task's end: never its text."""
    told: dict[str, object] = {
        "event": "task_ended",
        "request_id": outcome.request_id,
        "status": outcome.status,
        "decision": outcome.decision.value,
        "attempt": outcome.attempts,
        "worker": delivery.worker,
        "redeliveries": delivery.received.redeliveries,
        "total_ms": round(outcome.stages.total * 1000, 1) if outcome.stages.total is not None else None,
    }
    if outcome.trouble is not None:
        told |= {
            "http_status": outcome.trouble.http_status,
            "code": outcome.trouble.code,
            "why": outcome.trouble.message,
        }
    if outcome.reason:
        told["why"] = outcome.reason
    return told
