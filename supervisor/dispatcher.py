"""What becomes of each message: handed over, decided, recorded, and only then acked, nak'd or dead-lettered (spec 4).

Part of the postmaster's one thread (node.py): nothing here waits. It keeps the ledger true; how many messages may be
taken at all is node.py's business.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from supervisor.broker.client import Broker
from supervisor.events import Received, Stored
from supervisor.fitness.breaker import Admission, Admit
from supervisor.ledger import Delivery, Ledger, Place
from supervisor.machine.clock import Clock
from supervisor.workers.pool import Pool, WorkerDeath
from workernode import record
from workernode.errors import broken_error, openai_error, unfit_error
from workernode.outcome import End, Facts, OutcomeBuilder
from workernode.protocol import AnswerState, Decision, FaultInfo, Job, Outcome, Rejection
from workernode.redaction import redact_message
from workernode.settings import Settings
from workernode.task import envelope_id

log = logging.getLogger(__name__)

STORE_RETRY = 1.0  # seconds before a record that could not be stored is sent again


class Hooks(Protocol):
    """Who else wants to know."""

    def admit(self, now: float, age: float) -> Admission:
        """May a task that was published `age` seconds ago be run?"""

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was decided."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """The decision was carried out: the message is not at this node any more."""


class Dispatcher:
    """The messages at this node. Owned by the main thread."""

    def __init__(
        self, settings: Settings, identity: record.Node, broker: Broker, pool: Pool, hooks: Hooks, clock: Clock
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._outcomes = OutcomeBuilder(settings, identity)
        self._broker = broker
        self._pool = pool
        self._hooks = hooks
        self._clock = clock
        self._ledger = Ledger()
        self._parked: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()  # the same, for those that are to run alone
        self._resend: deque[tuple[float, int]] = deque()  # when (monotonic), whose record
        self._resending: set[int] = set()

    def __len__(self) -> int:
        """Messages that are not acked: what counts against the cap."""
        return len(self._ledger)

    @property
    def parked(self) -> int:
        """Deliveries that wait for a worker with room."""
        return self._ledger.count(Place.PARKED)

    @property
    def running(self) -> int:
        """Deliveries at workers."""
        return self._ledger.count(Place.RUNNING)

    @property
    def unrecorded(self) -> int:
        """Deliveries that are decided and whose record is not stored yet."""
        return self._ledger.count(Place.RECORDING)

    # --- in ---

    def receive(self, received: Received) -> bool:
        """A message was taken; False if it was known already."""
        request_id = envelope_id(received.payload)
        if self._ledger.holds(received):
            return False  # after a lost connection the broker hands the same message out again; one ack covers both
        if self._ledger.was_answered(received, request_id):
            log.info("delivered again after it was answered", extra={"event": "duplicate", "request_id": request_id})
            self._broker.ack(received.message)
            return False
        if request_id and self._ledger.is_open(request_id):
            # Published twice: it comes back when the first is done, and is then known as answered.
            self._broker.nak(received, self._settings.nak_delay)
            return False
        self._park(self._ledger.open(received, request_id))
        return True

    def hand_over(self) -> None:
        """Hand what is parked to workers that have room."""
        while self._suspects and self._pool.reserve():
            self._hand(self._suspects, alone=True)
        if not self._suspects:
            self._pool.release()
        while self._parked and self._pool.free_slots():
            self._hand(self._parked, alone=False)

    def _hand(self, waiting: deque[Delivery], alone: bool) -> None:
        """Hand over the first of them; there is a worker for it."""
        delivery = waiting.popleft()
        if delivery.rejection is None and not self._admitted(delivery):
            return
        place = self._pool.submit(self._job(delivery), alone)
        assert place is not None
        delivery.worker, delivery.slot = place
        self._ledger.move(delivery, Place.RUNNING)
        delivery.is_alone = alone
        delivery.handed_at = self._clock.monotonic()

    def _park(self, delivery: Delivery) -> None:
        self._ledger.move(delivery, Place.PARKED)
        alone = delivery.rejection is None and self._is_suspect(delivery)
        (self._suspects if alone else self._parked).append(delivery)

    def _is_suspect(self, delivery: Delivery) -> bool:
        """Workers died with it, and the next such death would be its last: then it must not be a neighbour's doing."""
        received, limit = delivery.received, self._settings.max_redeliveries
        deaths = self._ledger.deaths(received.key)
        return deaths >= max(1, limit) or (deaths > 1 and self._ledger.redeliveries(received) >= limit)

    def _admitted(self, delivery: Delivery) -> bool:
        """Let it through, or send it back; its redeliveries used up, its client is told instead of it being run."""
        age = max(0.0, delivery.received.received - delivery.received.published)
        admission = self._hooks.admit(self._clock.monotonic(), age)
        if admission.admit is not Admit.SEND_BACK or admission.trouble is None:
            delivery.is_probe = admission.admit is Admit.PROBE
            return True
        if self._ledger.redeliveries(delivery.received) >= self._settings.max_redeliveries:
            error = unfit_error(admission.trouble)
            delivery.rejection = Rejection("gave_up", Decision.ACK, error, admission.trouble.http_status)
            return True
        self.settle(delivery, self._own_outcome(delivery, Decision.NAK, "unfit", admission.trouble.code))
        return False

    def _job(self, delivery: Delivery) -> Job:
        received = delivery.received
        # A publisher whose clock is ahead gains no time by it.
        age = max(0.0, received.received - received.published)
        return Job(
            number=delivery.number,
            slot=-1,
            payload=received.payload,
            published=received.published,
            received=received.received,
            received_at=received.received_at,
            deadline=received.received_at + self._settings.task_timeout - age,
            redeliveries=self._ledger.redeliveries(received),
            rejection=delivery.rejection,
        )

    # --- decided ---

    def decided(self, outcome: Outcome) -> None:
        """A worker is done with a job."""
        delivery = self._ledger.get(outcome.number)
        if delivery is None or delivery.worker is None or delivery.place is not Place.RUNNING:
            return
        self._pool.free(delivery.worker, delivery.slot)
        self.settle(delivery, outcome)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """The decision stands: have it recorded, then carried out."""
        delivery.outcome = outcome
        self._ledger.move(delivery, Place.RECORDING)
        delivery.waits_for = {"record", "letter"} if outcome.decision is Decision.DEAD_LETTER else {"record"}
        log.log(
            logging.INFO if outcome.status == "answered" else logging.WARNING,
            "task %s",
            outcome.status,
            extra=_told(outcome, delivery),
        )
        self._hooks.ended(delivery, outcome)
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
            properties = {
                "reason": outcome.reason[:1000],
                "request_id": outcome.request_id,
                "node": self._identity.id,
            }
            self._broker.dead_letter(number, redact_message(delivery.received.payload), properties)

    def stored(self, stored: Stored) -> None:
        """The broker has a record or a dead letter, or could not take it."""
        delivery = self._ledger.get(stored.number)
        if delivery is None or delivery.outcome is None:
            return
        what = "letter" if stored.dead_letter else "record"
        if stored.fault:
            log.warning(
                "%s not stored: %s; tried again",
                what,
                stored.fault,
                extra={"event": "not_stored", "request_id": delivery.request_id, "what": what, "why": stored.fault},
            )
            if stored.number not in self._resending:
                self._resending.add(stored.number)
                self._resend.append((self._clock.monotonic() + STORE_RETRY, stored.number))
            return
        delivery.waits_for.discard(what)
        if not delivery.waits_for:
            self._carry_out(delivery, delivery.outcome)

    def _carry_out(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.decision is Decision.NAK:
            trouble = outcome.fault
            pause = trouble.retry_after if trouble and trouble.retry_after else 0.0
            at_once = outcome.status in ("worker_died", "drained")
            self._broker.nak(delivery.received, 0.0 if at_once else max(self._settings.nak_delay, pause))
        else:
            self._broker.ack(delivery.received.message)
        self._ledger.close(delivery)
        self._hooks.settled(delivery, outcome)

    def send_back(self, now: float, everything: bool = False) -> None:
        """Send back what is to be handed out again, and whose time has come."""
        self._broker.burst(now, self._ledger, everything)

    def retry_records(self, now: float) -> None:
        """Send the records again whose time has come."""
        while self._resend and self._resend[0][0] <= now:
            number = self._resend.popleft()[1]
            self._resending.discard(number)
            self._record(number)

    def next_retry(self) -> float:
        """Monotonic time at which `retry_records` has something to do."""
        return self._resend[0][0] if self._resend else float("inf")

    # --- a worker died ---

    def orphaned(self, died: WorkerDeath) -> None:
        """Decide the tasks that a dead worker had."""
        for number, seen in died.jobs.items():
            delivery = self._ledger.get(number)
            if delivery is not None and delivery.place is Place.RUNNING:
                self._orphan(delivery, seen, died.why)

    def _orphan(self, delivery: Delivery, seen: AnswerState, why: str) -> None:
        """By how much of the answer had left (spec 3)."""
        deaths = self._ledger.died_with(delivery)
        limit = self._settings.max_redeliveries
        used_up = max(deaths - 1, self._ledger.redeliveries(delivery.received)) >= limit
        reason = f"its worker died: {why}"
        text = f"Its worker process died {deaths} times with this request."
        if seen in (AnswerState.ENDING, AnswerState.ENDED):
            # ENDING: the end was in the kernel's hands, or about to be. It is taken as sent: of the two mistakes, a
            # second end would crash the gateway's handler (docs/decisions/0005-visible.md).
            told = delivery.rejection or Rejection("answered", Decision.ACK, {}, 0)
            self.settle(delivery, self._own_outcome(delivery, told.decision, told.status, told.reason or reason))
        elif delivery.rejection is not None:
            delivery.tellings += 1
            if delivery.tellings > limit:  # even telling the client kills workers
                self.settle(delivery, self._own_outcome(delivery, Decision.DEAD_LETTER, "poison", text))
            else:
                self._park(delivery)
        elif seen is AnswerState.STARTED:
            self._tell(delivery, Rejection("broken", Decision.ACK, broken_error(f"{reason}."), 0))
        elif used_up and (delivery.is_alone or deaths == 1):
            error = openai_error(f"The request could not be served. {text}", "server_error", "worker_died")
            if delivery.is_alone:
                self._tell(delivery, Rejection("poison", Decision.DEAD_LETTER, error, 0, reason=text))
            else:  # the last of its tries, others of which failed for other reasons
                self._tell(delivery, Rejection("gave_up", Decision.ACK, error, 0))
        else:
            self.settle(delivery, self._own_outcome(delivery, Decision.NAK, "worker_died", reason))

    def _tell(self, delivery: Delivery, rejection: Rejection) -> None:
        """Have a worker tell its client."""
        delivery.rejection = rejection
        self._park(delivery)

    # --- leaving ---

    def give_back_unbegun(self) -> None:
        """The node drains: what no worker has begun goes back to the broker."""
        for waiting in (self._suspects, self._parked):
            for delivery in [delivery for delivery in waiting if delivery.rejection is None]:
                waiting.remove(delivery)
                self.settle(delivery, self._own_outcome(delivery, Decision.NAK, "drained", "the node stops"))

    def left_over(self) -> list[str]:
        """Request ids of what is still here."""
        return [delivery.request_id for delivery in self._ledger]

    def streams_to_end(self, seen: dict[int, AnswerState]) -> list[Job]:
        """Of the jobs of workers that were killed: those whose clients have seen a part, as jobs that end them."""
        jobs = []
        for delivery in self._ledger:
            if delivery.place is Place.RUNNING and seen.get(delivery.number) is AnswerState.STARTED:
                delivery.rejection = Rejection("broken", Decision.ACK, broken_error("the node was stopped."), 0)
                jobs.append(self._job(delivery))
        return jobs

    def give_back_the_rest(self, seen: dict[int, AnswerState], ended: Iterable[Outcome]) -> None:
        """The time to drain is over: carry out what was ended, and send all else back."""
        outcomes = {outcome.number: outcome for outcome in ended}
        for delivery in self._ledger:
            if delivery.place is Place.RECORDING:
                continue
            if delivery.number in outcomes:
                outcome = outcomes[delivery.number]
            elif seen.get(delivery.number) in (AnswerState.ENDING, AnswerState.ENDED):
                outcome = self._own_outcome(delivery, Decision.ACK, "answered", "the node was stopped")
            else:
                outcome = self._own_outcome(delivery, Decision.NAK, "drained", "the node was stopped")
            self.settle(delivery, outcome)

    def _own_outcome(self, delivery: Delivery, decision: Decision, status: str, reason: str) -> Outcome:
        """The outcome of a task of which no worker can tell."""
        end = End(status, decision, openai_error(reason, "server_error", status), reason=reason)
        return self._outcomes.build(end, Facts(self._job(delivery), delivery.request_id), self._clock.monotonic())


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
        "total_ms": round(outcome.durations.total * 1000, 1) if outcome.durations.total is not None else None,
    }
    fault: FaultInfo | None = outcome.fault
    if fault is not None:
        told |= {"http_status": fault.http_status, "code": fault.code, "why": fault.message}
    if outcome.reason:
        told["why"] = outcome.reason
    return told
