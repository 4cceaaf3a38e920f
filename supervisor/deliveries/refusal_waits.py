"""Refused tasks: kept until it is known whose fault that is, then run again, sent back, or rejected."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.deliveries.settlement import Hooks, Settlement
from supervisor.fitness import RefusedTasks, Verdict, after_refusal, nak_delay
from supervisor.ledger import Delivery, Ledger, Place
from workernode.errors import unfit_error
from workernode.protocol import Decision, Outcome, Rejection


class RefusalWaits:
    """Between fitness and deliveries: decides those in REFUSED. Called by the main thread only, by the dispatcher.

    Args:
        ledger: the deliveries of this node.
        settlement: settles those that go back to the broker.
        hooks: knows whose fault a refusal is, and learns of each.
        nak_delay_s: NAK_DELAY, seconds.
    """

    def __init__(self, ledger: Ledger, settlement: Settlement, hooks: Hooks, nak_delay_s: float) -> None:
        self._ledger, self._settlement, self._hooks = ledger, settlement, hooks
        self._nak_delay_s = nak_delay_s
        self._refused = RefusedTasks()

    def keep(self, now: float, delivery: Delivery, outcome: Outcome) -> None:
        """Keep a task until it is known whose fault its refusal is (spec 5), for KEPT_FOR at most."""
        self._hooks.refused(delivery, outcome)
        self._ledger.move(delivery, Place.REFUSED)
        self._refused.keep(now, delivery.number, outcome)

    def decided(self, now: float) -> Iterator[tuple[Delivery, Rejection | None]]:
        """Yield the tasks that are to be run again, or whose clients get this error. Others are nak'd here."""
        for number, outcome, verdict in self._refused.decided(now, self._hooks.verdict):
            delivery = self._ledger.get(number)
            if delivery is None or delivery.place is not Place.REFUSED:  # the node stops: decide_rest has decided it
                continue
            if verdict is Verdict.AGAIN:
                yield delivery, None
                continue
            rejection = after_refusal(verdict, outcome, self._settlement.is_used_up(delivery))
            if rejection is None:
                self._settlement.settle(delivery, outcome)
            else:
                yield delivery, rejection

    def send_back(self, now: float, delivery: Delivery, outcome: Outcome) -> Rejection | None:
        """Nak a task that upstream failed or refused.

        Args:
            outcome: a NAK without an error for the client; its `fault` may name a time to wait.

        Returns:
            The error that its client gets instead, if its time ends before the broker hands the task out again.
        """
        fault = outcome.fault
        back_at = now + nak_delay(fault, self._nak_delay_s)
        if fault is None or back_at < self._settlement.deadline(delivery.received):
            self._settlement.settle(delivery, outcome)
            return None
        self._hooks.refused(delivery, outcome)
        return Rejection("gave_up", Decision.ACK, unfit_error(fault), fault.http_status)
