"""The claims of the deliveries: which wait because another node may have them too, and which streams may be sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from supervisor.claims import Claims, Finding, Found
from supervisor.deliveries.settlement import Settlement
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored
from supervisor.ledger import Delivery, Ledger, Place
from supervisor.workers import Pool
from workernode.errors import broken_error
from workernode.protocol import Decision, Job, Lease, Rejection

log = logging.getLogger(__name__)


class ClaimWaits:
    """Between claims and deliveries: looks messages up, decides those in LOOKED_UP and HELD, answers what workers ask.
    Called by the main thread only, by the dispatcher.

    Args:
        claims: knows which node has which request.
        ledger: the deliveries of this node.
        settlement: settles those that another node has.
        pool: its workers get grants and the lease.
    """

    def __init__(self, claims: Claims, ledger: Ledger, settlement: Settlement, pool: Pool) -> None:
        self._claims, self._ledger, self._settlement = claims, ledger, settlement
        self._pool = pool
        self._ends: dict[int, bool] = {}  # may a begun stream be ended here as the node stops? By the delivery's number

    def looks_up(self, now: float, delivery: Delivery) -> bool:
        """Find out whether another node has the message. Returns False if that cannot be."""
        received = delivery.received
        is_new = self._claims.is_new(received) and not self._ledger.was_given_back(received.key)
        if not delivery.request_id or not self._claims.is_on or is_new:
            self._claims.take(received, delivery.number, delivery.request_id)
            return False
        self._ledger.move(delivery, Place.LOOKED_UP)
        deadline = self._settlement.deadline(received)
        self._claims.look_up(now, delivery.number, delivery.request_id, received, deadline)
        return True

    def take(self, delivery: Delivery) -> None:
        """Claim a delivery that goes to a worker, if it is not claimed yet."""
        self._claims.take(delivery.received, delivery.number, delivery.request_id)

    def ask_to_end(self, jobs: Iterable[Job]) -> None:
        """Ask for the ends of begun streams: the node stops."""
        for job in jobs:
            if (delivery := self._ledger.get(job.number)) is not None:
                self.asked(delivery, is_end=True)

    def may_end(self, jobs: Iterable[Job], *, at_once: bool) -> list[Job] | None:
        """Return the jobs whose streams may be ended here. The others go back: another node has them, or ends them.

        Args:
            at_once: wait no longer for what is not known yet.

        Returns:
            None if it is not known of all of them.
        """
        known = [(job, self._ends.get(job.number)) for job in jobs]
        if not at_once and any(may is None for _, may in known):
            return None
        ended = []
        for job, may in known:
            delivery = self._ledger.get(job.number)
            if delivery is None:
                continue
            # Where nobody else can know that it has begun, the next node would send its text again.
            if may or (may is None and self._claims.has_begun_unasked(delivery.request_id)):
                ended.append(job)
            else:
                self._settlement.settle_own(delivery, Decision.NAK, "drained", "its claim could not be stored")
        return ended

    def asked(self, delivery: Delivery, is_end: bool) -> None:
        """A worker asks whether a stream may begin, or end."""
        self._claims.ask(delivery.number, delivery.request_id, is_end, delivery.received.received_at)

    def on_event(self, now: float, event: ClaimsOpened | ClaimsStored | ClaimsRead) -> None:
        """The broker reports something about claims."""
        match event:
            case ClaimsOpened():
                self._claims.opened(event)
            case ClaimsStored():
                self._claims.stored(now, event)
            case ClaimsRead():
                self._claims.read(now, event)

    def tick(self, now: float) -> None:
        """Publish what there is to publish, and give workers their answers."""
        self._claims.tick(now)
        for granted in self._claims.grants():
            delivery = self._ledger.get(granted.number)
            if delivery is not None and delivery.place is Place.ENDING:
                if granted.is_end or not granted.is_granted:  # not the late answer to a worker that is gone
                    self._ends[granted.number] = granted.is_granted
            elif delivery is not None and delivery.worker is not None and delivery.place is Place.RUNNING:
                self._pool.grant(delivery.worker, granted)
        self._pool.set_lease(Lease(self._claims.lease, self._claims.lapses))

    def next_tick(self, now: float) -> float:
        """Return the monotonic time at which `tick` has something to do."""
        return self._claims.next_tick(now)

    def waiting(self) -> list[Delivery]:
        """Return the deliveries that wait for what the claims show."""
        return [each for each in self._ledger if each.place in (Place.LOOKED_UP, Place.HELD)]

    def decided(self, now: float) -> Iterator[tuple[Delivery, Rejection | None]]:
        """Yield the deliveries that are this node's, and the error that the client of a begun stream gets. Those that
        another node has answered are acked.
        """
        for found in self._claims.found(now):
            delivery = self._ledger.get(found.number)
            if delivery is None or delivery.place not in (Place.LOOKED_UP, Place.HELD):
                continue
            match found.finding:
                case Finding.SERVE | Finding.NOT_KNOWN:
                    delivery.supersedes = found.node
                    yield delivery, None
                case Finding.END_STREAM:
                    delivery.supersedes, delivery.has_begun = found.node, True
                    _log("the node that had begun to answer is gone: its client gets an error", delivery, found)
                    yield delivery, Rejection("broken", Decision.ACK, broken_error("its node is gone."), 0)
                case Finding.HELD:
                    self._ledger.move(delivery, Place.HELD)
                    _log("another node works on this task: it is left to that node", delivery, found)
                case Finding.ENDED:
                    _log("delivered again after another node had answered it", delivery, found)
                    self._settlement.ack_answered(delivery)
                case Finding.UNRECORDED:
                    _log("the node that has answered it is gone, and has left no record", delivery, found)
                    delivery.supersedes = found.node
                    self._settlement.settle_unrecorded(delivery)
                case Finding.GIVE_BACK:
                    reason = "another node has it, and has not answered in time"
                    self._settlement.settle_own(delivery, Decision.NAK, "taken_over", reason)


def _log(text: str, delivery: Delivery, found: Found) -> None:
    about = {"event": "claim", "request_id": delivery.request_id, "finding": found.finding.value, "holder": found.node}
    log.info(text, extra=about)
