"""How a decided delivery leaves the node: its record is stored, and then it is acked, nak'd or dead-lettered.

Called by the main thread only, by the dispatcher; nothing here waits.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from supervisor.broker import Broker, DeadLetter, RecordSender
from supervisor.claims import Claims
from supervisor.events import Received, Stored
from supervisor.fitness import Admission, Verdict, nak_delay
from supervisor.ledger import Delivery, Ledger, Place
from supervisor.machine import Clock
from workernode import record
from workernode.errors import openai_error
from workernode.facts import End, Facts
from workernode.outcome import OutcomeBuilder, log_fields
from workernode.protocol import Decision, Job, Outcome
from workernode.redaction import redact_message
from workernode.settings import Settings
from workernode.task import envelope_headers
from workernode.trace_context import trace_of

log = logging.getLogger(__name__)

LAST_WAIT = 5.0  # seconds that another node needs for a task that is left to it


class Hooks(Protocol):
    """What the dispatcher asks, and reports to, besides broker and pool (supervisor.node)."""

    def admit(self, now: float, age: float, request_id: str) -> Admission:
        """May a task that was published `age` seconds ago be run?"""

    def may_ask(self, now: float) -> bool:
        """May a task ask upstream now, or must it wait, because a rate limit is near or the local model wakes up?"""

    def refused(self, delivery: Delivery, outcome: Outcome) -> None:
        """Upstream refused a task, and the fault may be the node's. It is not decided yet."""

    def verdict(self, request_id: str) -> Verdict:
        """Whose fault is the refusal of a task?"""

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was decided; its record is on the way."""

    def settled(self, delivery: Delivery, decision: Decision) -> None:
        """The decision was carried out: the message is not at this node any more."""


class Settlement:
    """The deliveries that are decided and not carried out yet.

    Args:
        identity: this node, as records name it.
        broker: gets records and dead letters, and then ack or nak.
        ledger: the deliveries of this node.
        hooks: learns of each that is decided, and carried out.
        claims: learns of each that is decided.
    """

    def __init__(
        self, settings: Settings, identity: record.Node, broker: Broker, ledger: Ledger, hooks: Hooks, clock: Clock,
        claims: Claims,
    ) -> None:  # fmt: skip
        self._settings, self._identity = settings, identity
        self._outcomes = OutcomeBuilder(settings, identity)
        self._broker, self._ledger, self._hooks, self._clock = broker, ledger, hooks, clock
        self._claims = claims
        self.records = RecordSender(broker)

    def job(self, delivery: Delivery) -> Job:
        """Return the job that a worker gets for a delivery."""
        received = delivery.received
        redeliveries, limit = self._ledger.redeliveries(received), self._settings.max_redeliveries
        has_tries = redeliveries >= limit > 0 and not self.is_used_up(delivery)
        return Job(
            delivery.number, -1, received.payload, received.published, received.received, received.received_at,
            self.deadline(received), redeliveries, delivery.rejection, delivery.attempts, delivery.kept,
            delivery.resume, self._claims.is_on, delivery.supersedes, has_tries,
        )  # fmt: skip

    def must_wait(self, delivery: Delivery, now: float, others_wait: bool = False) -> bool:
        """Return True if the task is to be run, and may not ask upstream yet. Once its time is over it waits no more.

        Args:
            others_wait: other tasks were found to wait at this moment.
        """
        is_to_run = delivery.rejection is None and delivery.kept is None and now < self.deadline(delivery.received)
        return is_to_run and (others_wait or not self._hooks.may_ask(now))

    def is_used_up(self, delivery: Delivery) -> bool:
        """Return True if the message was delivered as often as it may be. A task that other nodes will serve is not: it
        is left to them while it has the time.
        """
        received = delivery.received
        if self._ledger.tries(received) < self._settings.max_redeliveries:
            return False
        back_at = self._clock.monotonic() + self._settings.nak_delay + LAST_WAIT
        return back_at >= self.deadline(received) or not self._broker.do_others_serve()

    def deadline(self, received: Received) -> float:
        """Return the monotonic time after which nobody waits for the answer."""
        # A publisher whose clock is ahead gains no time by it.
        return received.received_at + self._settings.task_timeout - max(0.0, received.received - received.published)

    def own_outcome(self, delivery: Delivery, decision: Decision, status: str, reason: str) -> Outcome:
        """Return the outcome of a task that no worker reports.

        Args:
            status: a row of spec 4, such as "worker_died"; it is the code of the client's error, too.
            reason: a sentence for the client and the record.
        """
        error = openai_error(reason, "server_error", status)
        return self._own_outcome(delivery, End(status, decision, error, reason=reason))

    def _own_outcome(self, delivery: Delivery, end: End) -> Outcome:
        facts = Facts(self.job(delivery), delivery.request_id)
        if delivery.request_id:
            headers = envelope_headers(delivery.received.payload)
            facts.trace = trace_of(headers, delivery.request_id, makes_spans=self._settings.exports_traces)
        return self._outcomes.build(end, facts, self._clock.monotonic())

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """The delivery is decided: send its record (or dead letter). Carried out once that is stored."""
        delivery.outcome, delivery.decided_at = outcome, self._clock.monotonic()
        self._ledger.move(delivery, Place.RECORDING)
        level = logging.INFO if outcome.status == "answered" else logging.WARNING
        about = log_fields(outcome, delivery.worker, delivery.received.redeliveries)
        log.log(level, "task %s", outcome.status, extra=about)
        self._hooks.ended(delivery, outcome)
        if outcome.decision is Decision.NAK:
            has_left = delivery.has_begun or outcome.status == "taken_over"
            self._claims.given_back(delivery.number, delivery.request_id, has_left)
        self.records.send(delivery.number, outcome.record, self._letter(delivery, outcome))

    def settle_own(self, delivery: Delivery, decision: Decision, status: str, reason: str) -> None:
        """Settle a delivery of which no worker reports how it ended. The arguments are those of `own_outcome`."""
        self.settle(delivery, self.own_outcome(delivery, decision, status, reason))

    def settle_unrecorded(self, delivery: Delivery) -> None:
        """Settle a delivery that another node has answered, which is gone and has left no record: this node leaves one,
        without usage, which only that node knew.
        """
        reason = f"{delivery.supersedes} has answered it, and was gone before its record was stored"
        self.settle(delivery, self._own_outcome(delivery, End("unrecorded", Decision.ACK, reason=reason)))

    def settle_undelivered(self, delivery: Delivery) -> None:
        """Settle a delivery whose gateway was away until its time was over."""
        reason, own = "its gateway cannot be reached", delivery.rejection
        if delivery.undelivered is not None:
            self.settle(delivery, replace(delivery.undelivered, kept=None))
        elif own is not None:
            self.settle_own(delivery, own.decision, own.status, reason)
        else:
            self.settle_own(delivery, Decision.ACK, "expired", reason)

    def _letter(self, delivery: Delivery, outcome: Outcome) -> DeadLetter | None:
        if outcome.decision is not Decision.DEAD_LETTER:
            return None
        about = {"request_id": outcome.request_id, "node": self._identity.id}
        return DeadLetter(redact_message(delivery.received.payload), {"reason": outcome.reason[:1000], **about})

    def stored(self, stored: Stored) -> None:
        """A record or a dead letter is stored, or could not be stored: then it is sent again."""
        delivery, now = self._ledger.get(stored.number), self._clock.monotonic()
        if delivery is None or delivery.outcome is None or not self.records.stored(now, stored, delivery.request_id):
            return
        self._carry_out(delivery, delivery.outcome)

    def _carry_out(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.decision is Decision.NAK:
            at_once = outcome.status in ("worker_died", "drained")
            delay = 0.0 if at_once else nak_delay(outcome.fault, self._settings.nak_delay)
            # It counts from the decision: a record that was slow to be stored must not outlast the task's time.
            self._broker.nak(delivery.received, max(0.0, delivery.decided_at + delay - self._clock.monotonic()))
        else:
            self._claims.recorded(delivery.number, delivery.request_id)
            self._broker.ack(delivery.received)
        self._close(delivery, outcome.decision)

    def ack_answered(self, delivery: Delivery) -> None:
        """Another node has answered it, and its record is stored: ack it."""
        self._broker.ack(delivery.received)
        self._close(delivery, Decision.ACK)

    def _close(self, delivery: Delivery, decision: Decision) -> None:
        self._ledger.close(delivery)
        self._hooks.settled(delivery, decision)
