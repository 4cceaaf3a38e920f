"""Where each message at this node is, and which were answered lately. Pure: no clock, no broker, no process.

A message is in exactly one place, from the moment it is taken until the broker may forget it or has it back; a message
that was answered is never run again.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import Enum

from supervisor.events import Entry, MessageKey, Received
from workernode.protocol import AnswerState, Decision, Kept, Outcome, Rejection, SavedStream

# A broker that was killed may hand out again what was acked in its last minute: up to 333 tasks a second are remembered
# for so long. Of more than that, the claims show which ones were answered.
REMEMBERED = 20_000  # answered tasks, at least; also the most naks and deaths
# Workers that were killed from outside while they had a message count as one death of which it may be the cause: a
# guard of the system may kill a process for what the task makes it do, each time.
KILLS_PER_DEATH = 4

# Keys that are remembered take 64 bytes of memory so, and 150 as tuples.
_packed_key = struct.Struct("=qqii").pack
_packed_entry = struct.Struct("=qqi").pack


class Place(Enum):
    """Where a delivery is."""

    LOOKED_UP = "looked_up"  # taken; it may be at another node too, which is not known yet
    HELD = "held"  # another node works on it: it waits without a slot for what becomes of it
    QUEUED = "queued"  # taken; waits for a free slot
    RUNNING = "running"  # at a worker
    REFUSED = "refused"  # upstream refused it; it is kept until it is known whose fault that is
    UNDELIVERED = "undelivered"  # its gateway cannot be reached: it waits without a slot
    ENDING = "ending"  # its client has seen a part; the node stops, and the end is being sent without a worker
    RECORDING = "recording"  # decided; its record (or its dead letter) is on the way to the broker


@dataclass(slots=True)
class Delivery:
    """One message taken from the broker, until it is decided and recorded."""

    number: int
    received: Received
    place: Place = Place.QUEUED
    request_id: str = ""
    worker: int | None = None  # index of the worker that has it, or had it last
    slot: int = -1
    handed_at: float = 0.0  # monotonic: when a worker got it; 0: none did
    decided_at: float = 0.0  # monotonic: when its outcome was there
    is_probe: bool = False  # it tries out whether upstream serves again
    is_alone: bool = False  # its worker has no other job: if that worker dies, it counts as this task's doing
    has_begun: bool = False  # its client has seen a part of the answer: it must not be run again
    failed_sends: int = 0  # deaths that count against it, of workers that sent the rejection, or offered `kept` again
    failed_alone: int = 0  # how many of these workers had no other job
    rejection: Rejection | None = None  # what its client gets instead of it being run
    supersedes: str = ""  # the node that had it before, and is gone
    attempts: int = 0  # times upstream was asked
    kept: Kept | None = None  # what a worker is to offer to the gateway instead of running the task
    resume: SavedStream | None = None  # the stream that a worker is to go on with instead of running the task
    undelivered: Outcome | None = None  # how it ends if its gateway never gets the answer that `kept` holds
    outcome: Outcome | None = None

    @property
    def is_to_be_run(self) -> bool:
        """Whether a worker is to run the task from its beginning."""
        return self.rejection is None and self.resume is None

    @property
    def may_go_back(self) -> bool:
        """Whether the broker may hand it out again: its client was sent nothing, and is to be sent no error."""
        return self.is_to_be_run and self.undelivered is None

    def note_death(
        self, state: AnswerState, saved: SavedStream | None, counts: bool
    ) -> tuple[AnswerState, SavedStream | None]:
        """Its worker died: note that, and return how much of its answer its client was sent, by all workers together.

        Args:
            state: how much was sent by this worker.
            saved: the stream that this worker has sent; None if it is not known.
            counts: the death counts against it.
        """
        self.note_failed_send(counts and self.rejection is not None)
        if self.resume is not None and state is AnswerState.NOT_STARTED:
            state, saved = AnswerState.STARTED, self.resume
        self.has_begun = self.has_begun or state is AnswerState.STARTED
        return state, saved

    def note_failed_send(self, counts: bool) -> None:
        """A worker died as it sent the rejection, or offered `kept` again, and that counts, or not."""
        self.failed_sends += counts
        self.failed_alone += counts and self.is_alone

    def hand_on(self, what: Rejection | SavedStream) -> None:
        """Have the next worker send its client this error, or go on with this stream."""
        if isinstance(what, SavedStream):
            self.resume = what
        else:
            self.rejection = what


class Recent:
    """The latest of many values: at least `least` of them, at most twice as many. It needs half of an OrderedDict's
    memory: once `least` new values have come, all that came before the last `least` are dropped at once.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._new: dict[Hashable, None] = {}  # dicts, because a set of as many takes twice the memory
        self._old: dict[Hashable, None] = {}

    def __contains__(self, value: Hashable) -> bool:
        return value in self._new or value in self._old

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, value: Hashable) -> None:
        """Add a value, or note that it has come again."""
        self._new[value] = None
        if len(self._new) >= self._least:
            self._new, self._old = {}, self._new


class Ledger:
    """All deliveries at this node, by number and by the broker's name for the message."""

    def __init__(self) -> None:
        self._next = 1
        self._by_number: dict[int, Delivery] = {}
        self._by_key: dict[MessageKey, Delivery] = {}
        self._counts = dict.fromkeys(Place, 0)
        self._by_entry: Counter[Entry] = Counter()
        self._open_ids: set[str] = set()
        self._answered = Recent(REMEMBERED)  # packed keys
        self._answered_ids = Recent(REMEMBERED)  # request ids
        self._answered_entries = Recent(REMEMBERED)  # packed; batches of which one was answered
        self._naks: OrderedDict[MessageKey, int] = OrderedDict()
        self._deaths: OrderedDict[MessageKey, int] = OrderedDict()  # by a cause that may be the message
        self._kills: OrderedDict[MessageKey, int] = OrderedDict()  # of workers that were killed from outside
        self._failed_probes: OrderedDict[MessageKey, int] = OrderedDict()

    def __len__(self) -> int:
        """Messages that are not acked: what counts against the cap."""
        return len(self._by_number)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> Delivery | None:
        """The delivery with that number, if it is still at this node."""
        return self._by_number.get(number)

    def count(self, place: Place) -> int:
        """How many deliveries are in that place. Called at every turn of the loop: must not walk over them."""
        return self._counts[place]

    def move(self, delivery: Delivery, place: Place) -> None:
        """Put the delivery into another place."""
        self._counts[delivery.place] -= 1
        self._counts[place] += 1
        delivery.place = place

    def holds(self, received: Received) -> bool:
        """True if the message is at this node already: the broker handed it out a second time."""
        return received.key in self._by_key

    def is_known(self, key: MessageKey) -> bool:
        """True if the message is at this node already, or was answered here."""
        return key in self._by_key or _packed_key(*key) in self._answered

    def has_others_of_batch(self, key: MessageKey) -> bool:
        """True if a message of the same batch is at this node."""
        return self._by_entry[key[:3]] > 0

    def has_answered_of_batch(self, key: MessageKey) -> bool:
        """True if a message of the same batch was answered here."""
        return _packed_entry(*key[:3]) in self._answered_entries

    def open(self, received: Received, request_id: str) -> Delivery:
        """Add a message that is not at this node yet; return its delivery."""
        delivery = Delivery(self._next, received, request_id=request_id)
        self._next += 1
        self._counts[delivery.place] += 1
        self._by_number[delivery.number] = delivery
        self._by_key[received.key] = delivery
        self._by_entry[received.key[:3]] += 1
        if request_id:
            self._open_ids.add(request_id)
        return delivery

    def was_answered(self, received: Received, request_id: str = "") -> bool:
        """True if this node has answered the message, or another message with the same request."""
        return _packed_key(*received.key) in self._answered or (bool(request_id) and request_id in self._answered_ids)

    def is_open(self, request_id: str) -> bool:
        """True if a message with the same request is at this node."""
        return request_id in self._open_ids

    def was_given_back(self, key: MessageKey) -> bool:
        """True if this node has had the message before, and has given it back."""
        return key in self._naks

    def redeliveries(self, received: Received) -> int:
        """How often the message was delivered before: the broker's count or this node's own, whichever is higher. The
        broker's count starts again after its restart. A probe that found upstream away is no delivery of the task's.
        """
        count = max(received.redeliveries, self._naks.get(received.key, 0))
        return max(0, count - self._failed_probes.get(received.key, 0))

    def tries(self, received: Received) -> int:
        """The redeliveries that count against MAX_REDELIVERIES: no task loses a try because its worker was killed from
        outside.
        """
        return max(0, self.redeliveries(received) - self._kills.get(received.key, 0))

    def deaths(self, key: MessageKey) -> int:
        """How many deaths of workers that had this message count against it."""
        return self._deaths.get(key, 0) + self._kills.get(key, 0) // KILLS_PER_DEATH

    def must_run_alone(self, received: Received, limit: int) -> bool:
        """True if the next death of a worker would be the task's last: a death that a neighbour in the same worker has
        caused must not count against it.

        Args:
            received: the message.
            limit: MAX_REDELIVERIES.
        """
        deaths = self.deaths(received.key)
        return deaths >= max(1, limit) or (deaths > 1 and self.tries(received) >= limit)

    def died_with(self, delivery: Delivery, is_from_outside: bool) -> bool:
        """A worker died while it had the delivery; return whether that counts against the message."""
        if is_from_outside:
            return _count(self._kills, delivery.received.key) % KILLS_PER_DEATH == 0
        _count(self._deaths, delivery.received.key)
        return True

    def close(self, delivery: Delivery) -> None:
        """Remove a delivery that is decided, recorded, and acked or nak'd; remember what its outcome was."""
        del self._by_number[delivery.number]
        del self._by_key[delivery.received.key]
        self._counts[delivery.place] -= 1
        entry = delivery.received.key[:3]
        self._by_entry[entry] -= 1
        if not self._by_entry[entry]:
            del self._by_entry[entry]
        self._open_ids.discard(delivery.request_id)
        key = delivery.received.key
        if delivery.outcome is not None and delivery.outcome.decision is Decision.NAK:
            _count(self._naks, key)
            if delivery.is_probe and delivery.outcome.fault is not None and delivery.outcome.client_error is None:
                _count(self._failed_probes, key)
            return
        self._naks.pop(key, None)
        self._deaths.pop(key, None)
        self._kills.pop(key, None)
        self._failed_probes.pop(key, None)
        self._answered.add(_packed_key(*key))
        if key[3] >= 0:  # it came in a batch
            self._answered_entries.add(_packed_entry(*entry))
        if delivery.request_id:
            self._answered_ids.add(delivery.request_id)


def _count(table: OrderedDict[MessageKey, int], key: MessageKey) -> int:
    count = table.get(key, 0) + 1
    table[key] = count
    table.move_to_end(key)
    if len(table) > REMEMBERED:
        table.popitem(last=False)
    return count
