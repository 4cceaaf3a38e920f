"""One answer across nodes: what the broker hands out twice is answered once (spec 4, decision 0011). Pure.

A node claims each task in a topic that all nodes of the model share; the order in that topic decides. Nobody waits for
a claim on the normal way, but the first frame and the end of a stream, which leave only when the claim is stored.
Claims are read only where a message may be at another node too. Clock and topic are passed in; nothing here waits.
"""

from __future__ import annotations

import heapq
import logging

from supervisor.claims.freshness import FRAME_AFTER, Freshness
from supervisor.claims.look_ups import Finding, Found, LookUps
from supervisor.claims.outbox import ClaimOutbox, Request, Sent
from supervisor.claims.own_claim import OwnClaim, own_claim_of
from supervisor.claims.reading import Reading
from supervisor.claims.renewal import Renewal
from supervisor.claims.table import ClaimState, decode
from supervisor.claims.topic import Topic
from supervisor.claims.while_off import WhileOff
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Received
from workernode.protocol import Granted

log = logging.getLogger(__name__)

FOREVER = float("inf")
LEASE = 15.0  # seconds after its last stored message for which the streams of a node may be sent; see look_ups.LIFE
SIGN_INTERVAL = 2.0  # seconds between two signs of life of a node that holds claims
# Seconds from the receipt of a message within which its claim must be stored. Another node that gets the message later
# finds the claim; of a claim that is stored later it must be read whether it was the first.
STORED_WITHIN = FRAME_AFTER
KEPT_BEYOND = 60.0  # seconds beyond TASK_TIMEOUT that a claim matters: a stream may end a little after its time


class Claims:
    """The claims of this node, and what it knows of those of others. Owned by the supervisor's main thread.

    Attributes:
        is_on: claims can be published; otherwise everything is granted at once.
        lease: monotonic time until which streams of this node may be sent.
        lapses: how often that had run out, so that others may have taken streams over. Who sends one asks again then.

    Args:
        node: the name of this node, unique for each of its starts.
        topic: publishes and reads.
        task_timeout: TASK_TIMEOUT, seconds.
    """

    def __init__(self, node: str, topic: Topic, task_timeout: float) -> None:
        self._node = node
        self._outbox = ClaimOutbox(node, topic.publish_claims)
        self._look_ups = LookUps(node, self._outbox)
        self._renewal = Renewal(self._outbox, task_timeout + KEPT_BEYOND)
        self._reading = Reading(topic, task_timeout + KEPT_BEYOND)
        self._freshness = Freshness()
        self._own: dict[str, OwnClaim] = {}  # by request id
        self._received: dict[int, Received] = {}  # messages that are looked up, by the number of the delivery
        self._while_off = WhileOff()
        self._grants: list[Granted] = []
        self._unsure: list[tuple[int, Request]] = []  # answered once the mark was read back
        self._early: list[tuple[float, Request]] = []  # a heap: what is published at a moment (monotonic)
        self._doubt_mark = 0  # not 0: others may take this node for gone; it is known better once the mark is read back
        self.is_on = False
        self.lease = FOREVER
        self.lapses = 0

    # --- what the node asks ---

    def is_new(self, received: Received) -> bool:
        """Return True if the message cannot be at another node. Otherwise it is to be looked up."""
        return not self.is_on or self._freshness.is_new(received)

    def look_up(self, now: float, number: int, request_id: str, received: Received, deadline: float) -> None:
        """Find out whether another node holds the task. The result follows in `found`.

        Args:
            now: monotonic.
            number: of the delivery.
            deadline: monotonic; after it nobody waits for the answer.
        """
        self._received[number] = received
        self._reading.want(received.earliest)
        self._look_ups.add(now, number, request_id, deadline)

    def take(self, received: Received, number: int, request_id: str) -> None:
        """Claim a task."""
        if not request_id:
            return
        if request_id in self._own:
            self._own[request_id].number = number
        else:
            # Without claims its stream begins unasked: should they come to be used, it counts as begun.
            is_off, since, earliest = not self.is_on, received.received_at, received.earliest
            self._own[request_id] = OwnClaim(number, since, earliest, is_begun=is_off, has_begun_unasked=is_off)
            if self.is_on:
                self._outbox.taken(request_id)

    def ask(self, number: int, request_id: str, is_end: bool, received_at: float = 0.0) -> None:
        """A worker asks whether the first frame of a stream, or its end, may leave. A grant follows.

        Args:
            received_at: monotonic; when the message was received. A stream that is to begin is published FRAME_AFTER
                later: a node that is killed before that has begun nothing.
        """
        own = self._own.get(request_id)
        if not self.is_on or own is None:
            self._grants.append(Granted(number, not self.is_on, is_end))
        elif received_at and not is_end:
            heapq.heappush(self._early, (received_at + FRAME_AFTER, Request(number, request_id, is_end)))
        else:
            self._ask(own, Request(number, request_id, is_end))

    def given_back(self, number: int, request_id: str, has_left: bool = True) -> None:
        """A delivery goes back to the broker.

        Args:
            has_left: something of an answer may have left.
        """
        _, own = self._forget(number, request_id)
        if not request_id:
            return
        if not self.is_on:
            self._while_off.given_back(request_id, has_left, own is not None and own.asked_to_end)
            return
        if own is not None and own.is_known and not has_left:
            self._outbox.withdrawn(request_id)
        elif own is not None and own.asked_to_end:
            self._outbox.unended(request_id)
        else:  # also if it is not this node's: a claim or a takeover that is still to be stored would keep it here
            self._outbox.released(request_id)

    def recorded(self, number: int, request_id: str) -> None:
        """A delivery is decided for good, and its record is stored: whatever node gets the message again acks it."""
        waited, own = self._forget(number, request_id)
        if not self.is_on:
            self._while_off.recorded(request_id)
        elif waited or own or self._look_ups.table.is_held_by(request_id, self._node):
            self._outbox.recorded(request_id)

    def has_begun_unasked(self, request_id: str) -> bool:
        """Return True if the stream of a task may have begun while claims were off, and no other node can know that."""
        own = self._own.get(request_id)
        return own is not None and own.has_begun_unasked

    def found(self, now: float) -> list[Found]:
        """Return what was found out since the last call about messages that were looked up.

        Those with SERVE, NOT_KNOWN, END_STREAM and UNRECORDED are this node's from now on.
        """
        found = self._look_ups.found()
        for each in found:
            received = self._received.get(each.number)
            if each.finding is not Finding.HELD:
                self._received.pop(each.number, None)
            is_first = each.finding is Finding.SERVE and not (each.node or each.was_given_back)
            if is_first and received is not None:
                self._freshness.was_new(now, received)
            if each.finding not in (Finding.HELD, Finding.ENDED, Finding.GIVE_BACK):
                earliest = now if received is None else received.earliest
                self._own[each.request_id] = own_claim_of(each, now, earliest, is_off=not self.is_on)
        return found

    def grants(self) -> list[Granted]:
        """Return the answers to workers since the last call."""
        grants, self._grants = self._grants, []
        return grants

    # --- what the broker reports ---

    def opened(self, event: ClaimsOpened) -> None:
        """The node is connected; claims can be used, or not."""
        self._while_off.log(event)
        if event.is_refused:
            self._turn_off()
        elif not self.is_on:
            self.is_on, self.lease = True, 0.0
            for request_id, own in self._own.items():  # taken before
                own.is_certain = False
                self._outbox.again(request_id, own.is_begun)
            self._while_off.end(self._outbox, self._own)

    def stored(self, now: float, event: ClaimsStored) -> None:
        """A message with claims was stored, or not."""
        if (sent := self._outbox.stored(now, event.number, event.fault)) is not None:
            self._freshness.stored_within(now - sent.at)
            self._is_stored(now, sent)

    def _is_stored(self, now: float, sent: Sent) -> None:
        self._note_lapse(now)
        if not self._doubt_mark:
            self.lease = max(self.lease, sent.at + LEASE)
        for request_id in sent.message.taken:
            own = self._own.get(request_id)
            if own is not None and not own.is_stored:
                own.is_stored = True
                own.is_certain = own.is_certain and now <= own.since + STORED_WITHIN
        for request_id in sent.message.begun:
            if (own := self._own.get(request_id)) is not None:
                own.has_begun_unasked = False
        for request in sent.requests:
            own = self._own.get(request.request_id)
            if own is None:
                self._grants.append(Granted(request.number, False))
            elif self._doubt_mark:
                self._unsure.append((self._doubt_mark, request))
            else:
                own.is_begun = True
                self._grants.append(Granted(request.number, True, request.is_end))

    def read(self, now: float, event: ClaimsRead) -> None:
        """The next message of the topic has come."""
        if event.is_start:
            self._want_what_waits()
            self._reading.started(now)
            self._look_ups.restart(now)
            return
        message = decode(event.data) if self._reading.has_start else None
        if message is None:
            return
        if message.node == self._node and (sent := self._outbox.read_back(message.serial)) is not None:
            self._is_stored(now, sent)
        self._look_ups.read(now, message)
        if message.node == self._node:
            self._read_back(message.serial)

    # --- what time brings ---

    def tick(self, now: float) -> None:
        """Publish what is due; look after what waits."""
        if not self.is_on:
            return
        self._note_lapse(now)
        while self._early and self._early[0][0] <= now:
            _, request = heapq.heappop(self._early)
            self.ask(request.number, request.request_id, request.is_end)
        self._look_ups.tick(now)
        if not self._doubt_mark:
            self._renewal.tick(now, self._own)
        self._outbox.flush(now, self._sign_interval)
        self._read_or_not(now)

    def next_tick(self, now: float) -> float:
        """Return the monotonic time at which `tick` has something to do."""
        if not self.is_on:
            return FOREVER
        lapse = self.lease if self._own and not self._doubt_mark and self.lease > now else FOREVER
        early = self._early[0][0] if self._early else FOREVER
        return min(self._outbox.next_flush(self._sign_interval), self._look_ups.next_tick(now), lapse, early)

    # --- the parts ---

    def _forget(self, number: int, request_id: str) -> tuple[bool, OwnClaim | None]:
        """Forget a delivery; return whether it was being looked up, and the claim of its task."""
        self._received.pop(number, None)
        return self._look_ups.remove(number), self._own.pop(request_id, None)

    @property
    def _sign_interval(self) -> float:
        return SIGN_INTERVAL if self._own else FOREVER

    def _ask(self, own: OwnClaim, request: Request) -> None:
        own.number = request.number
        if self._doubt_mark:
            self._unsure.append((self._doubt_mark, request))
        elif not (own.is_certain and own.is_stored):
            self._reading.want(own.earliest)
            self._unsure.append((self._outbox.next_mark(), request))
        else:
            own.asked_to_end = own.asked_to_end or request.is_end
            self._outbox.ask(request)

    def _turn_off(self) -> None:
        # In doubt, too: streams that wait for nothing go on, and without claims the next node would repeat the text.
        requests, left = self._outbox.clear()
        if self.is_on:
            self._while_off.begin([*self._own, *self._look_ups.request_ids()], left)
        waiting = [*requests, *(request for _, request in [*self._unsure, *self._early])]
        self._grants += [Granted(request.number, True, request.is_end) for request in waiting]
        self.is_on, self.lease, self._doubt_mark = False, FOREVER, 0
        for own in self._own.values():
            own.is_begun = own.has_begun_unasked = True  # from now on its stream may begin
        self._unsure, self._early = [], []
        self._look_ups.give_up()

    def _note_lapse(self, now: float) -> None:
        """Be in doubt if another node may have taken this one for gone."""
        if now < self.lease or self._doubt_mark or not any(now >= own.since + LEASE for own in self._own.values()):
            return
        text = "no claim could be stored for %g s: streams wait until it is known whether another node has taken over"
        log.warning(text, LEASE, extra={"event": "claims_in_doubt"})
        self.lapses += 1
        self._doubt_mark = self._outbox.next_mark()
        self._want_what_waits()

    def _read_back(self, mark: int) -> None:
        """All that was published before this own message is known."""
        if self._doubt_mark and mark >= self._doubt_mark:
            self._end_doubt(mark)
        if not self._unsure:
            return
        known = [request for wanted, request in self._unsure if wanted <= mark]
        self._unsure = [(wanted, request) for wanted, request in self._unsure if wanted > mark]
        for request in known:
            own = self._own.get(request.request_id)
            if own is not None and self._keeps(request.request_id, own):
                self._ask(own, request)

    def _keeps(self, request_id: str, own: OwnClaim) -> bool:
        """Drop a claim that another node holds, or of a task that this node has answered before. Returns False then."""
        claim = self._look_ups.table.get(request_id)
        if claim is None or (not claim.holder and claim.state is ClaimState.TAKEN):  # not stored yet, or lost
            own.is_certain = False
            self._outbox.again(request_id, own.is_begun)
        elif claim.holder == self._node and (own.is_known or claim.state is ClaimState.TAKEN):
            own.is_certain = own.is_stored = own.is_known = True
        else:
            del self._own[request_id]
            self._grants.append(Granted(own.number, False))
        return request_id in self._own

    def _end_doubt(self, mark: int) -> None:
        """Drop what another node has taken over; go on with the rest."""
        self._doubt_mark = 0
        self.lease = max(self.lease, self._outbox.sent_at(mark) + LEASE)
        lost = sum(not self._keeps(request_id, own) for request_id, own in list(self._own.items()))
        about = {"event": "claims_certain", "taken_over": lost}
        log.warning("claims can be stored again; other nodes have taken over %d tasks of this one", lost, extra=about)

    def _want_what_waits(self) -> None:
        """Have the claims read of everything that waits for them; in doubt, of all that is this node's."""
        waiting = self._own if self._doubt_mark else {request.request_id for _, request in self._unsure}
        moments = [received.earliest for received in self._received.values()]
        moments += [own.earliest for request_id, own in self._own.items() if request_id in waiting]
        for moment in moments:
            self._reading.want(moment)

    def _read_or_not(self, now: float) -> None:
        is_needed = bool(self._look_ups or self._doubt_mark or self._unsure)
        if self._reading.tick(now, is_needed):
            self._look_ups.restart(now)
        elif self._reading.is_on and not (self._doubt_mark or self._unsure):  # else own claims are still to be found
            self._look_ups.forget(now, self._reading.remember_s)
