"""A simulated Pulsar: one topic with a Shared subscription, records, dead letters; and the client library's part of it.

The library's part is what supervisor/broker/ stands on: a consumer with a listener and a receiver queue of one, acks
that travel later, naks behind a timer that starts again at every nak. The real code of supervisor/broker/ runs on top,
except for the thread that connects (connection.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.schedule import TaskPlan
from tests.simulation.world import World

LEDGER = 7
NAK_TIMER = 0.1  # seconds: the library's shortest delay; its timer starts again at every nak
SEND_TIMEOUT = 30.0  # seconds after which the library gives up a message that is not stored
ACK_DELAY = 0.1  # seconds for which the library collects acks


class PulsarException(Exception):  # the library's name
    """What the library raises."""


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
        """Part of the id."""
        return -1

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

    def __init__(self, world: World, index_acks: bool) -> None:
        self._world = world
        self._index_acks = index_acks
        self.is_up = True
        self.entries: list[Entry] = []
        self._waiting: list[Entry] = []  # by number
        self.consumers: list[Consumer] = []
        self._turn = 0
        self.records_refused_until = self.records_late_until = 0.0
        self.recent_acks: list[tuple[float, Entry, set[int]]] = []
        self.on_lost: Callable[[Entry], None] = lambda entry: None  # an entry is handed out again although it was held

    def publish(self, plans: list[TaskPlan], payloads: list[bytes], wall: float) -> None:
        """Store one entry."""
        entry = Entry(len(self.entries), [], wall)
        pairs = zip(plans, payloads, strict=True)
        entry.messages = [Message(entry, place, plan, data) for place, (plan, data) in enumerate(pairs)]
        entry.waits_since = self._world.now
        self.entries.append(entry)
        self._waiting.append(entry)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand out what waits to consumers that have asked, in turn."""
        while self.is_up and self._waiting:
            able = [one for one in self.consumers if one.permits > 0]
            if not able:
                return
            self._turn += 1
            consumer = able[self._turn % len(able)]
            entry = self._waiting.pop(0)
            messages = [one for one in entry.messages if one.place not in entry.acked or not self._index_acks]
            entry.owner = consumer
            if not self._index_acks:
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
        """An ack arrives, unless it was sent on a connection that is no more."""
        if consumer.connection != connection:
            self._world.faults["ack lost"] += 1
            return
        entry = message.entry
        before = set(entry.acked)
        entry.acked.add(message.place)
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
        if not self.consumers:
            for entry in self.entries:
                entry.redeliveries = 0  # the counts are the subscription's memory
        self.dispatch()

    def stop(self, hard: bool) -> None:
        """The broker is gone; killed, it has forgotten the acks of its last seconds."""
        self.is_up = False
        for entry in self.entries:
            entry.redeliveries = 0
            if entry.owner is not None:
                self.on_lost(entry)
                entry.owner = None
        for consumer in self.consumers:
            consumer.connection += 1
        self.consumers.clear()
        if hard:
            for at, entry, before in reversed(self.recent_acks):
                if at > self._world.now - 3.0:
                    self.on_lost(entry)
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

    @property
    def backlog(self) -> int:
        """Messages that were not acked."""
        return sum(len(one.messages) - len(one.acked) for one in self.entries)


class Consumer:
    """The library's consumer: a listener, a receiver queue of one. After an outage it connects again by itself."""

    def __init__(self, world: World, server: Server, listener: Callable[[Any, Any], None]) -> None:
        self._world = world
        self._server = server
        self._listener = listener
        self._queue: list[Delivery] = []
        self._paused = False
        self.permits = 0
        self.connection = 0  # grows with each that is lost
        self.is_closed = False
        self.is_leaving: Callable[[], bool] = lambda: False  # whether its node stops
        self._acks: list[Message] = []
        self._nak_timer = 0
        self._naks: list[Entry] = []

    def connect(self) -> None:
        """It is subscribed: the broker may send one message."""
        if not self.is_closed and self not in self._server.consumers:
            self._server.consumers.append(self)
            self.permits = 0
            self._flow()

    def disconnect(self) -> None:
        """Its connection is lost; what was in its queue is handed out again."""
        self._queue.clear()
        self._server.leave(self, lost=True)

    def arrive(self, connection: int, deliveries: list[Delivery]) -> None:
        """What the broker has sent arrives."""
        if self.connection == connection and not self.is_closed:
            self._queue += deliveries
            self._work()

    def _work(self) -> None:
        while self._queue and not self._paused and not self.is_closed:
            self._listener(self, self._queue.pop(0))
        if not self._queue and not self._paused:
            self._flow()

    def _flow(self) -> None:
        """Ask for the next message, if none is asked for."""
        if self.permits <= 0 and self in self._server.consumers:
            self.permits = 1
            self._world.after(0.0005, self._server.dispatch)

    # --- what supervisor/broker/ calls ---

    def pause_message_listener(self) -> None:
        """Call the listener no more."""
        self._paused = True

    def resume_message_listener(self) -> None:
        """Call it again."""
        if self._paused:
            self._paused = False
            self._world.after(0.0001, self._work)

    def acknowledge(self, delivery: Delivery) -> None:
        """Ack, some time later; lost where the connection is lost meanwhile."""
        if self.is_closed:
            raise PulsarException("AlreadyClosed")
        self._acks.append(delivery.message)
        self._world.after(ACK_DELAY * self._world.dice.random(), self._send_ack, self.connection, delivery.message)

    def _send_ack(self, connection: int, message: Message) -> None:
        if message in self._acks:
            self._acks.remove(message)
            self._server.ack(self, connection, message)

    def negative_acknowledge(self, delivery: Delivery) -> None:
        """Nak; sent when the timer has run out without another nak."""
        if not self.is_closed:
            self._naks.append(delivery.message.entry)
            self._nak_timer += 1
            self._world.after(NAK_TIMER, self._send_naks, self._nak_timer)

    def _send_naks(self, timer: int) -> None:
        if timer == self._nak_timer:
            naks, self._naks = self._naks, []
            self._server.redeliver(self, self.connection, naks)

    def is_connected(self) -> bool:
        """Whether messages can come."""
        return self in self._server.consumers

    def close(self) -> None:
        """Leave: what was not acked is handed out again, what was acked is told to the broker before."""
        if not self.is_closed:
            for message in list(self._acks):
                self._send_ack(self.connection, message)
            self.is_closed = True
            self._queue.clear()
            self._server.leave(self, lost=False)

    def kill(self) -> None:
        """Its process is gone, with the acks that it had not sent."""
        self._acks.clear()
        self.close()


class Link:
    """One node's way to the broker: whether anything gets through, and what was sent and is not stored yet."""

    def __init__(self, world: World, server: Server) -> None:
        self._world = world
        self.server = server
        self.is_cut = False
        self.is_closed = False
        self.pending: dict[int, tuple[float, Callable[[str], None]]] = {}
        self._next = 0

    @property
    def is_up(self) -> bool:
        """Whether anything gets through."""
        return self.server.is_up and not self.is_cut and not self.is_closed

    def store(self, done: Callable[[str], None]) -> None:
        """Send a record or a dead letter; `done` gets "" or why it is not stored."""
        self._next += 1
        self.pending[self._next] = (self._world.now, done)
        delay = self._world.dice.uniform(0.002, 0.03)
        if self._world.now < self.server.records_late_until:
            delay += self._world.dice.uniform(0.5, 5.0)
        self._world.after(delay, self._try_to_store, self._next)

    def _try_to_store(self, number: int) -> None:
        if number not in self.pending:
            return
        since, done = self.pending[number]
        if self.is_closed:
            del self.pending[number]
        elif self.is_up and self._world.now >= self.server.records_refused_until:
            del self.pending[number]
            done("")
        elif self.is_up or self._world.now - since >= SEND_TIMEOUT:
            del self.pending[number]
            done("ProducerBlockedQuotaExceededError" if self.is_up else "Timeout")
        else:
            self._world.after(0.5, self._try_to_store, number)
