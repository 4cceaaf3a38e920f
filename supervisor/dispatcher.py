"""Decides what becomes of each message: to a worker, decided, recorded, and only then acked, nak'd or dead-lettered.

The rows of spec 4, on the supervisor's side. Called by the main thread only (node.py); nothing here waits. Broker, pool
and clock are passed in. How many messages may be taken at all: intake_limit.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from supervisor.broker import Broker
from supervisor.claims import Claims
from supervisor.deliveries import (
    ClaimWaits,
    GatewayWaits,
    Hooks,
    Queues,
    RefusalWaits,
    Settlement,
    decide_rest,
    settle_ended_streams,
)
from supervisor.events import Received, Stored
from supervisor.fitness import Admit
from supervisor.ledger import Delivery, Ledger, Place
from supervisor.machine import Clock
from supervisor.workers import Pool, Settled, WorkerDeath, after_death, kills_by_sending, most_sends
from workernode import record
from workernode.errors import unfit_error
from workernode.gateway import offered_until
from workernode.protocol import AnswerState, ClaimAsked, Decision, Job, Kept, Outcome, Rejection, SavedStream
from workernode.settings import Settings
from workernode.task import envelope_id

log = logging.getLogger(__name__)


class Dispatcher:
    """The messages at this node, from the moment they are taken until the broker may forget them or has them back."""

    def __init__(
        self, settings: Settings, identity: record.Node, broker: Broker, pool: Pool, hooks: Hooks, clock: Clock
    ) -> None:
        self._settings, self._limit = settings, settings.max_redeliveries
        self._broker, self._pool = broker, pool
        self._hooks, self._clock = hooks, clock
        self._ledger = Ledger()
        claims = Claims(identity.id, broker, settings.task_timeout)
        self._settlement = Settlement(settings, identity, broker, self._ledger, hooks, clock, claims)
        self._settle, self._settle_own = self._settlement.settle, self._settlement.settle_own
        self._records = self._settlement.records
        self._queues = Queues(pool, self._settlement)
        self._refusals = RefusalWaits(self._ledger, self._settlement, hooks, settings.nak_delay)
        self._gateways = GatewayWaits()
        self.claims = ClaimWaits(claims, self._ledger, self._settlement, pool)

    def __len__(self) -> int:
        """Messages that are not acked: what counts against the cap."""
        return len(self._ledger)

    @property
    def queued(self) -> int:
        """Deliveries that wait for a free slot."""
        return self._ledger.count(Place.QUEUED)

    @property
    def running(self) -> int:
        """Deliveries at workers."""
        return self._ledger.count(Place.RUNNING)

    @property
    def unrecorded(self) -> int:
        """Deliveries that are decided and whose record is not stored yet."""
        return self._ledger.count(Place.RECORDING)

    @property
    def beyond_cap(self) -> int:
        """Messages that wait for a gateway that is away, or for another node, and do not count against the cap."""
        return self._gateways.beyond_cap + self._ledger.count(Place.HELD)

    # --- messages in, jobs out ---

    def receive(self, received: Received) -> bool:
        """Take in a message from the broker.

        Returns:
            False if the message, or another with the same request, is at this node or was answered by it.
        """
        request_id = envelope_id(received.payload)
        if self._ledger.holds(received):
            return False  # after a lost connection the broker hands the same message out again; one ack covers both
        if self._ledger.was_answered(received, request_id):
            log.info("delivered again after it was answered", extra={"event": "duplicate", "request_id": request_id})
            self._broker.ack(received)
            return False
        if request_id and self._ledger.is_open(request_id):
            # Published twice: it comes back when the first is done, and is then known as answered.
            self._broker.nak(received, self._settings.nak_delay)
            return False
        delivery = self._ledger.open(received, request_id)
        if not self.claims.looks_up(self._clock.monotonic(), delivery):
            self._enqueue(delivery)
        return True

    def hand_over(self) -> None:
        """Give deliveries that wait to workers with free slots; of tasks no more than may ask upstream now."""
        now = self._clock.monotonic()
        self._offer_again(now)
        for delivery in self._queues.to_run_alone(now):
            self._submit(delivery, alone=True)
        for delivery in self._queues.for_free_slots(now):
            self._submit(delivery, alone=False)

    def _submit(self, delivery: Delivery, alone: bool) -> None:
        """Give it to a worker; there is one that can take it."""
        if delivery.kept is None and (self._waits_for_gateway(delivery) or not self._admitted(delivery)):
            return
        self.claims.take(delivery)
        place = self._pool.submit(self._settlement.job(delivery), alone)
        assert place is not None
        delivery.worker, delivery.slot = place
        self._ledger.move(delivery, Place.RUNNING)
        delivery.is_alone = alone
        if delivery.kept is None:
            delivery.handed_at = self._clock.monotonic()

    def _enqueue(self, delivery: Delivery) -> None:
        self._ledger.move(delivery, Place.QUEUED)
        alone = delivery.is_to_be_run and self._ledger.must_run_alone(delivery.received, self._limit)
        alone = alone or delivery.failed_sends >= most_sends(self._limit)
        self._queues.put(delivery, alone)

    def _admitted(self, delivery: Delivery) -> bool:
        """Ask whether the task may be run. If not, nak it, or, its redeliveries used up, have its client get the error.

        Returns:
            True if it goes to a worker, to be run or to be rejected.
        """
        if not delivery.is_to_be_run:
            return True
        # Where other nodes serve, all tasks are left to them as fresh ones are.
        age = 0.0 if self._broker.do_others_serve() else delivery.received.received - delivery.received.published
        admission = self._hooks.admit(self._clock.monotonic(), max(0.0, age), delivery.request_id)
        if admission.admit is not Admit.SEND_BACK or admission.fault is None:
            delivery.is_probe = admission.admit is Admit.PROBE
            return True
        if self._settlement.is_used_up(delivery):
            error = unfit_error(admission.fault)
            delivery.rejection = Rejection("gave_up", Decision.ACK, error, admission.fault.http_status)
            return True
        self._settle_own(delivery, Decision.NAK, "unfit", admission.fault.code)
        return False

    # --- decided ---

    def decided(self, outcome: Outcome) -> None:
        """A worker reports how a job ended. An outcome for a job that is not at a worker any more is dropped."""
        delivery = self._ledger.get(outcome.number)
        if delivery is None or delivery.worker is None or delivery.place is not Place.RUNNING:
            return
        self._pool.free(delivery.worker, delivery.slot)
        delivery.attempts = outcome.attempts
        if outcome.kept is not None:
            self._keep_undelivered(delivery, outcome, outcome.kept)
            return
        self._gateways.reached(delivery)
        if outcome.decision is not Decision.NAK:
            self._settle(delivery, outcome)
        elif outcome.client_error is not None:
            self._refusals.keep(self._clock.monotonic(), delivery, outcome)
            self.decide_refused(self._clock.monotonic())
        else:
            rejection = self._refusals.send_back(self._clock.monotonic(), delivery, outcome)
            if rejection is not None:
                self._reject(delivery, rejection)

    # --- gateways that are away ---

    def _waits_for_gateway(self, delivery: Delivery) -> bool:
        """Return True if the gateway of a task is away: the task then waits until it is back."""
        server = self._gateways.server_away(delivery.received.payload)
        if not server:
            return False
        until = offered_until(self._settlement.deadline(delivery.received), self._clock.monotonic())
        self._await_gateway(delivery, Kept(server, False, until))
        return True

    def _keep_undelivered(self, delivery: Delivery, outcome: Outcome, kept: Kept) -> None:
        """Keep an answer that its gateway has not got."""
        if kept.parts:
            if delivery.undelivered is None:
                self._hooks.refused(delivery, outcome)
            delivery.undelivered = outcome
        elif kept.is_reached:  # the task was not run yet
            delivery.kept = None
            self._gateways.reached(delivery)
            return self._enqueue(delivery)
        return self._await_gateway(delivery, kept)

    def _await_gateway(self, delivery: Delivery, kept: Kept) -> None:
        delivery.kept = kept
        self._ledger.move(delivery, Place.UNDELIVERED)
        self._gateways.wait(self._clock.monotonic(), delivery, kept)

    def _offer_again(self, now: float) -> None:
        """Queue what is to be offered to gateways, and settle that whose time is over."""
        for delivery in self._gateways.due(now, max(1, self._settings.max_process_num // 4)):
            if delivery.undelivered is None and not self._gateways.is_offered(delivery):
                delivery.kept = None  # its gateway is back: it is run
            self._enqueue(delivery)
        for delivery in self._gateways.over(now):
            self._settlement.settle_undelivered(delivery)

    # --- what was refused, or may be at another node too ---

    def decide_refused(self, now: float) -> None:
        """Go on with the refused tasks of which it is known by now whose fault that is, or which were kept too long."""
        self._go_on(self._refusals.decided(now))

    def claim_asked(self, asked: ClaimAsked) -> None:
        """A worker asks whether a stream may begin, or end."""
        delivery = self._ledger.get(asked.number)
        if delivery is not None:
            # A stream that is offered again asks once its gateway is reached, and may wait long for the answer: what
            # else waits for that gateway does not wait with it.
            self._gateways.reached(delivery)
            self.claims.asked(delivery, asked.is_end)

    def tend_claims(self, now: float) -> None:
        """Go on with the messages of which it is known by now whether another node has them."""
        self._go_on(self.claims.decided(now))
        self.claims.tick(now)

    def _go_on(self, decided: Iterator[tuple[Delivery, Rejection | None]]) -> None:
        for delivery, rejection in decided:
            if rejection is None:
                self._enqueue(delivery)
            else:
                self._reject(delivery, rejection)

    def _reject(self, delivery: Delivery, rejection: Rejection) -> None:
        """Have a worker send this error to the client."""
        delivery.rejection = rejection
        self._enqueue(delivery)

    # --- records and naks ---

    def stored(self, stored: Stored) -> None:
        """A record or a dead letter is stored, or could not be stored."""
        self._settlement.stored(stored)

    def send_back(self, now: float, everything: bool = False) -> None:
        """Give the naks that are due to the broker; `everything`: all naks, because the node stops."""
        self._broker.send_due_naks(now, self._ledger, everything)

    def retry_records(self, now: float) -> None:
        """Send the records again whose time has come."""
        self._records.retry(now)

    def next_retry(self) -> float:
        """Monotonic time at which `retry_records` or `hand_over` has something to do."""
        return min(self._records.next_retry(), self._gateways.next_at())

    # --- a worker died ---

    def worker_died(self, death: WorkerDeath) -> None:
        """Decide the tasks that a dead worker had."""
        for number, state in death.jobs.items():
            delivery = self._ledger.get(number)
            if delivery is not None and delivery.place is Place.RUNNING:
                self._decide_orphan(delivery, state, death, death.streams.get(number))

    def _decide_orphan(
        self, delivery: Delivery, state: AnswerState, death: WorkerDeath, saved: SavedStream | None
    ) -> None:
        """Decide one task whose worker died, by how much of its answer had left (spec 3)."""
        counts = self._ledger.died_with(delivery, death.is_from_outside)
        deaths = self._ledger.deaths(delivery.received.key)
        self._gateways.forget(delivery)
        if delivery.undelivered is not None and state is not AnswerState.STARTED:
            assert delivery.kept is not None
            delivery.note_failed_send(counts)
            kills = kills_by_sending(delivery.failed_sends, delivery.failed_alone, self._limit)
            if state is AnswerState.NOT_STARTED and not kills:
                self._await_gateway(delivery, delivery.kept)
            else:  # the gateway has the answer, or offering it kills workers
                self._settlement.settle_undelivered(delivery)
            return
        delivery.kept = delivery.undelivered = None
        state, saved = delivery.note_death(state, saved, counts)
        verdict = after_death(
            state, delivery.rejection, death.why, saved=saved, deaths=deaths, counts=counts,
            failed_sends=delivery.failed_sends, failed_alone=delivery.failed_alone, limit=self._limit,
            is_alone=delivery.is_alone,
            is_used_up=max(deaths - 1, self._ledger.tries(delivery.received)) >= self._limit,
        )  # fmt: skip
        if isinstance(verdict, Settled):
            self._settle_own(delivery, verdict.decision, verdict.status, verdict.reason)
        else:
            delivery.hand_on(verdict)
            self._enqueue(delivery)

    # --- the node stops ---

    def nak_queued(self) -> None:
        """The node drains: tasks that no worker has begun go back to the broker."""
        for delivery in (*self.claims.waiting(), *self._gateways.take_unasked()):
            self._settle_own(delivery, Decision.NAK, "drained", "the node stops")
        for delivery in self._queues.take_back():
            self._gateways.forget(delivery)
            self._settle_own(delivery, Decision.NAK, "drained", "the node stops")

    def request_ids(self) -> list[str]:
        """Request ids of the messages at this node."""
        return [delivery.request_id for delivery in self._ledger]

    def decide_rest(self, states: dict[int, AnswerState]) -> list[Job]:
        """The time to drain is over and all workers were killed: decide every message that is still here.

        Args:
            states: how much of each job's answer had left, by the job's number.

        Returns:
            Jobs that end the streams of which clients have seen a part; `streams_ended` decides these.
        """
        self._queues.clear()
        self._gateways = GatewayWaits()
        jobs = decide_rest(self._ledger, self._settlement, states)
        self.claims.ask_to_end(jobs)
        return jobs

    def streams_ended(self, outcomes: Iterable[Outcome]) -> None:
        """Decide the streams that `decide_rest` gave.

        Args:
            outcomes: of the streams that could be ended. Others are acked, too: another node would repeat their text.
        """
        settle_ended_streams(self._ledger, self._settlement, outcomes)
