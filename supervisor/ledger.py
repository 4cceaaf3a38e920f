"""Which task is where, and what was answered lately. Pure bookkeeping: no clock, no broker, no process of its own.

The promise it keeps: a message is in exactly one place, from the moment it is taken until the broker may forget it or
has it back; and one that was answered is never run again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from supervisor.events import Entry, MessageKey, Received
from workernode.protocol import Decision, Outcome, Rejection

# A broker that was killed hands out again what was acked in its last ten seconds or so, which is far fewer.
REMEMBERED = 20_000  # answered tasks


class Place(Enum):
    """Where a delivery is."""

    PARKED = "parked"  # taken, not yet handed to a worker
    RUNNING = "running"  # at a worker
    RECORDING = "recording"  # decided; its record (or its dead letter) is on the way to the broker


@dataclass(slots=True)
class Delivery:
    """One message taken from the broker, until it is decided and recorded."""

    number: int
    received: Received
    place: Place = Place.PARKED
    request_id: str = ""
    worker: int | None = None  # which handle has it
    slot: int = -1
    handed_at: float = 0.0  # monotonic
    is_probe: bool = False
    is_alone: bool = False  # its worker has nothing else: if that dies, it is this task's doing
    tellings: int = 0  # workers that died while they told its client the rejection
    rejection: Rejection | None = None  # it is not to be run but told
    outcome: Outcome | None = None
    waits_for: set[str] = field(default_factory=set)  # what has to be stored before the ack: "record", "letter"


class Ledger:
    """All deliveries at this node, by number and by the broker's name for the message."""

    def __init__(self) -> None:
        self._next = 1
        self._by_number: dict[int, Delivery] = {}
        self._by_key: dict[MessageKey, Delivery] = {}
        self._counts = dict.fromkeys(Place, 0)
        self._by_entry: Counter[Entry] = Counter()
        self._open_ids: set[str] = set()
        self._answered: OrderedDict[MessageKey, str] = OrderedDict()
        self._answered_ids: OrderedDict[str, MessageKey] = OrderedDict()
        self._answered_entries: OrderedDict[Entry, None] = OrderedDict()  # batches of which one was answered
        self._naks: OrderedDict[MessageKey, int] = OrderedDict()
        self._deaths: OrderedDict[MessageKey, int] = OrderedDict()

    def __len__(self) -> int:
        """Messages that are not acked: what counts against the cap."""
        return len(self._by_number)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> Delivery | None:
        """The delivery with that number, if it is still open."""
        return self._by_number.get(number)

    def count(self, place: Place) -> int:
        """How many deliveries are there. Asked at every turn of the loop, so that it must not look at each."""
        return self._counts[place]

    def move(self, delivery: Delivery, place: Place) -> None:
        """The delivery is there from now on."""
        self._counts[delivery.place] -= 1
        self._counts[place] += 1
        delivery.place = place

    def holds(self, received: Received) -> bool:
        """True if the message is here already: the broker handed it out again."""
        return received.key in self._by_key

    def has_mates(self, key: MessageKey) -> bool:
        """True if a message that came in the same batch is here."""
        return self._by_entry[key[:3]] > 0

    def has_answered_mates(self, key: MessageKey) -> bool:
        """True if a message that came in the same batch was answered here."""
        return key[:3] in self._answered_entries

    def open(self, received: Received, request_id: str) -> Delivery:
        """Enter a message that is not here yet, and return its delivery."""
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
        return received.key in self._answered or (bool(request_id) and request_id in self._answered_ids)

    def is_open(self, request_id: str) -> bool:
        """True if a message with the same request is at this node."""
        return request_id in self._open_ids

    def redeliveries(self, received: Received) -> int:
        """How often the message was handed out before: by the broker's count and our own memory, whichever is
        higher.
        """
        return max(received.redeliveries, self._naks.get(received.key, 0))

    def deaths(self, key: MessageKey) -> int:
        """How many workers died with this message in hand."""
        return self._deaths.get(key, 0)

    def died_with(self, delivery: Delivery) -> int:
        """A worker died with it: return how many have now."""
        return _count(self._deaths, delivery.received.key)

    def close(self, delivery: Delivery) -> None:
        """It is decided, recorded, and acked or nak'd: it is not at this node any more."""
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
            return
        self._naks.pop(key, None)
        self._deaths.pop(key, None)
        _remember(self._answered, key, delivery.request_id)
        if key[3] >= 0:  # else it came in no batch
            _remember(self._answered_entries, entry, None)
        if delivery.request_id:
            _remember(self._answered_ids, delivery.request_id, key)


def _remember(table: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]
    table[key] = value
    table.move_to_end(key)
    if len(table) > REMEMBERED:
        table.popitem(last=False)


def _count(table: OrderedDict[MessageKey, int], key: MessageKey) -> int:
    count = table.get(key, 0) + 1
    _remember(table, key, count)
    return count
