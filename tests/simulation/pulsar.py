"""A simulated Pulsar broker: one topic, perhaps in partitions, with a Shared subscription.

Records and dead letters are only stored or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.schedule import TaskPlan
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.library import Consumer


class ClaimsLog:
    """What the topic of claims holds."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.stored_at: list[float] = []  # when each was stored
        self.readers: list[Callable[[], None]] = []
        self.is_refused = False  # no node may write there
        self.stores_late_until = self.receipts_late_until = 0.0  # a message is stored no sooner, or its receipt comes

    def append(self, data: bytes, now: float) -> None:
        """Store a message."""
        self.messages.append(data)
        self.stored_at.append(now)
        for reader in self.readers:
            reader()


LEDGER = 7


@dataclass(eq=False)
class Entry:
    """What the topic stores at once: a message, or a batch of them."""

    number: int
    messages: list[Message]
    published: float
    acked: set[int] = field(default_factory=set)  # places within the batch
    redeliveries: int = 0
    owner: Consumer | None = None
    waits_since: float = 0.0  # since when it could be handed out
    partition: int = 0
    handed_at: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether all of it was acked."""
        return len(self.acked) == len(self.messages)


@dataclass(eq=False)
class Message:
    """One message of the topic."""

    entry: Entry
    place: int
    plan: TaskPlan
    payload: bytes


class Delivery:
    """A message as the library gives it to the listener."""

    def __init__(self, message: Message, consumer: Consumer) -> None:
        self.message = message
        self.consumer = consumer
        self._redeliveries = message.entry.redeliveries

    def message_id(self) -> Delivery:
        """Itself has what an id has."""
        return self

    def ledger_id(self) -> int:
        """Part of the id."""
        return LEDGER

    def entry_id(self) -> int:
        """Part of the id."""
        return self.message.entry.number

    def partition(self) -> int:
        """Part of the id; -1: the topic has no partitions."""
        return self.message.entry.partition if self.consumer.topic else -1

    def topic_name(self) -> str:
        """The partition's name."""
        return self.consumer.topic

    def batch_index(self) -> int:
        """Part of the id; -1 without a batch."""
        return self.message.place if len(self.message.entry.messages) > 1 else -1

    def serialize(self) -> bytes:
        """The id as Protocol Buffers has it, as far as it is read: the batch's size is field 6."""
        return bytes([6 << 3, len(self.message.entry.messages)])

    def data(self) -> bytes:
        """The payload."""
        return self.message.payload

    def producer_name(self) -> str:
        """The one publisher."""
        return "gateway"

    def publish_timestamp(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.message.entry.published * 1000)

    def redelivery_count(self) -> int:
        """As the broker counts."""
        return self._redeliveries


class Server:
    """The broker."""

    def __init__(self, world: World, index_acks: bool, partitions: int = 1, is_unkind: bool = True) -> None:
        self._world = world
        self.is_unkind = is_unkind  # see schedule.UNKIND
        self.partitions = partitions
        self._index_acks = index_acks
        self.is_up = True
        self.entries: list[Entry] = []
        self._waiting: list[Entry] = []  # by number
        self.consumers: list[Consumer] = []
        self.claims = ClaimsLog()
        self.claims_away_until = 0.0
        self._turn = 0
        self.is_moving = False  # the topic has no owner for a while; records can be stored
        self.records_refused_until = self.records_late_until = 0.0
        self.recent_acks: list[tuple[float, Entry, set[int]]] = []
        self.backlog = 0  # messages that were not acked
        self.on_lost: Callable[[Entry], None] = lambda entry: None  # an entry is handed out again although it was held

    @property
    def are_claims_away(self) -> bool:
        """Whether the topic of claims has no owner at the moment."""
        return self._world.now < self.claims_away_until

    @property
    def do_claims_wait(self) -> bool:
        """Whether what is claimed at the moment is stored, or known to be stored, much later or never."""
        late_until = max(self.claims.stores_late_until, self.claims.receipts_late_until)
        return self.are_claims_away or self._world.now < late_until

    def publish(self, plans: list[TaskPlan], payloads: list[bytes], wall: float) -> None:
        """Store one entry."""
        entry = Entry(len(self.entries), [], wall, partition=plans[0].partition)
        pairs = zip(plans, payloads, strict=True)
        entry.messages = [Message(entry, place, plan, data) for place, (plan, data) in enumerate(pairs)]
        entry.waits_since = self._world.now
        self.entries.append(entry)
        self.backlog += len(entry.messages)
        self._waiting.append(entry)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand out what waits to consumers that have asked, in turn."""
        for partition in range(self.partitions):
            self._dispatch(partition)

    def _dispatch(self, partition: int) -> None:
        while self.is_up and self._waiting and not self.is_moving:
            able = [one for one in self.consumers if one.permits > 0 and one.partition == partition]
            entry = next((one for one in self._waiting if one.partition == partition), None) if able else None
            if entry is None:
                return
            self._turn += 1
            consumer = able[self._turn % len(able)]
            self._waiting.remove(entry)
            messages = [one for one in entry.messages if one.place not in entry.acked or not self._index_acks]
            entry.owner, entry.handed_at = consumer, self._world.now
            if not self._index_acks and entry.acked:
                self.backlog += len(entry.acked)
                entry.acked.clear()  # it is forgotten with the entry's coming again
            consumer.permits -= len(messages)
            deliveries = [Delivery(one, consumer) for one in messages]
            delay = self._world.dice.uniform(0.0005, 0.005)
            self._world.after(delay, consumer.arrive, consumer.connection, deliveries)

    def wait_again(self, entry: Entry, counts: bool) -> None:
        """An entry is to be handed out again."""
        entry.owner = None
        if entry.is_done:
            return
        entry.redeliveries += counts
        entry.waits_since = self._world.now
        self._waiting.append(entry)
        self._waiting.sort(key=lambda one: one.number)

    def ack(self, consumer: Consumer, connection: int, message: Message) -> None:
        """An ack arrives, unless it was sent on a connection that is no more, or without one."""
        if consumer.connection != connection or (self.is_unkind and consumer not in self.consumers):
            self._world.faults["ack lost"] += 1
            return
        entry = message.entry
        before = set(entry.acked)
        entry.acked.add(message.place)
        self.backlog -= len(entry.acked) - len(before)
        self.recent_acks.append((self._world.now, entry, before))
        if entry.is_done:
            entry.owner = None
            if entry in self._waiting:
                self._waiting.remove(entry)

    def redeliver(self, consumer: Consumer, connection: int, entries: list[Entry]) -> None:
        """The library's naks arrive."""
        if consumer.connection != connection:
            return
        for entry in entries:
            if entry.owner is consumer:
                if entry.acked and not self._index_acks and consumer.is_leaving():
                    self.on_lost(entry)
                self.wait_again(entry, counts=True)
        self.dispatch()

    def leave(self, consumer: Consumer, lost: bool) -> None:
        """A consumer is gone: what it has not acked is handed out again.

        Args:
            lost: its connection was lost, and its node may still work on it.
        """
        if consumer not in self.consumers:
            return
        self.consumers.remove(consumer)
        consumer.connection += 1
        for entry in self.entries:
            if entry.owner is consumer:
                # Without acks of single messages, what was answered of a batch comes again with the rest of it.
                if lost or (entry.acked and not self._index_acks):
                    self.on_lost(entry)
                self.wait_again(entry, counts=False)
        if not any(one.partition == consumer.partition for one in self.consumers):
            for entry in self.entries:
                if entry.partition == consumer.partition:
                    entry.redeliveries = 0  # the counts are the subscription's memory
        self.dispatch()

    def stop(self, hard: bool) -> None:
        """The broker is gone; killed, it has forgotten the latest acks."""
        self.is_up = False
        self._forget(hard)

    def begin_to_move(self) -> None:
        """The topic's owner was killed: it has no owner for a while."""
        self.is_moving = True
        self._forget(hard=True)

    def moved(self) -> None:
        """The topic has an owner again."""
        self.is_moving = False
        self.start()

    def _forget(self, hard: bool) -> None:
        for entry in self.entries:
            entry.redeliveries = 0
            if entry.owner is not None:
                self.on_lost(entry)
                entry.owner = None
        for consumer in self.consumers:
            consumer.connection += 1
        self.consumers.clear()
        if hard:
            # It stores them once a second (standalone: once in ten), and what is left after the last of these once a
            # minute (managedLedgerDefaultMarkDeleteRateLimit, managedLedgerCursorPositionFlushSeconds).
            seconds = 3.0
            if self.is_unkind:
                dice = self._world.dice_for("forgotten acks", self._world.now)
                seconds = dice.choice((0.0, dice.uniform(0.0, 5.0), dice.uniform(5.0, 60.0)))
            for at, entry, before in reversed(self.recent_acks):
                if at > self._world.now - seconds:
                    self.on_lost(entry)
                    self.backlog += len(entry.acked) - len(before)
                    entry.acked = before
        self.recent_acks.clear()
        self._waiting = [one for one in self.entries if not one.is_done]
        for entry in self._waiting:
            entry.waits_since = float("inf")

    def start(self) -> None:
        """The broker is back."""
        self.is_up = True
        for entry in self._waiting:
            entry.waits_since = self._world.now
        self.dispatch()

    def unacked(self, consumer: Consumer) -> int:
        """Messages at a consumer that it has not acked."""
        return sum(len(one.messages) - len(one.acked) for one in self.entries if one.owner is consumer)
