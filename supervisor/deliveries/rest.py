"""What becomes of the messages that are still at a node when its time to drain is over (spec 3)."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.deliveries.settlement import Settlement
from supervisor.ledger import Ledger, Place
from workernode.errors import broken_error
from workernode.protocol import AnswerState, Decision, Job, Outcome, Rejection

REASON = "the node was stopped"


def decide_rest(ledger: Ledger, settlement: Settlement, states: dict[int, AnswerState]) -> list[Job]:
    """Decide every message that is still here; all workers were killed. See Dispatcher.decide_rest."""
    jobs = []
    for delivery in ledger:
        if delivery.place is Place.RECORDING:
            continue
        state = states.get(delivery.number)
        delivery.has_begun = delivery.has_begun or state is AnswerState.STARTED
        if state in (AnswerState.ENDING, AnswerState.ENDED):
            status = "broken" if delivery.has_begun else "answered"
            settlement.settle_own(delivery, Decision.ACK, status, REASON)
        elif delivery.has_begun:
            delivery.kept = None  # the answer that was offered again: its client has seen a part of it
            delivery.rejection = Rejection("broken", Decision.ACK, broken_error(f"{REASON}."), 0)
            ledger.move(delivery, Place.ENDING)
            jobs.append(settlement.job(delivery))
        else:
            settlement.settle_own(delivery, Decision.NAK, "drained", REASON)
    return jobs


def settle_ended_streams(ledger: Ledger, settlement: Settlement, outcomes: Iterable[Outcome]) -> None:
    """Decide the streams that `decide_rest` gave. See Dispatcher.streams_ended."""
    known = {outcome.number: outcome for outcome in outcomes}
    for delivery in ledger:
        if delivery.place is Place.ENDING:
            own = settlement.own_outcome(delivery, Decision.ACK, "broken", REASON)
            settlement.settle(delivery, known.get(delivery.number, own))
