"""The simulated client library of Pulsar: a consumer with a receiver queue of one, and what a node sends to be stored.

Acts as the real one does: acks travel later, naks wait behind a timer that starts again at every nak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.pulsar import Delivery, Entry, Message, Server
from tests.simulation.world import World

NAK_TIMER = 0.1  # seconds: the library's shortest delay; its timer starts again at every nak
SEND_TIMEOUT = 30.0  # seconds after which the library gives up a message that is not stored
ACK_DELAY = 0.1  # seconds for which the library collects acks


class PulsarException(Exception):  # the library's name
    """An exception of the library."""


class Consumer:
    """The library's consumer: a listener, a receiver queue of one. After an outage it connects again by itself."""

    def __init__(
        self, world: World, server: Server, listener: Callable[[Any, Any], None], topic: str = "", partition: int = 0
    ) -> None:
        self._world = world
        self.topic, self.partition = topic, partition  # topic: of a partition; "" if the topic has none
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
        if not self.is_closed and self not in self._server.consumers and not self._server.is_moving:
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
        elif self.is_closed:  # a thread of the library had them already
            for delivery in deliveries:
                self._listener(self, delivery)

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
        """Close the consumer: acks that wait are sent first, and the broker hands out again what was not acked."""
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
        self.has_producer = False  # the library's producer of the records is connected
        self.pending: dict[int, tuple[float, Callable[[str], None]]] = {}
        self._next = 0

    @property
    def is_up(self) -> bool:
        """Whether anything gets through."""
        return self.server.is_up and not self.is_cut and not self.is_closed

    def fail_pending(self) -> None:
        """The client was closed: what is not stored by now never is."""
        pending, self.pending = list(self.pending.values()), {}
        for _, done in pending:
            done("AlreadyClosed")

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
        elif self.is_up and self.has_producer and self._world.now >= self.server.records_refused_until:
            del self.pending[number]
            done("")
        elif (self.is_up and self.has_producer) or self._world.now - since >= SEND_TIMEOUT:
            del self.pending[number]
            done("ProducerBlockedQuotaExceededError" if self.is_up else "Timeout")
        else:
            self._world.after(0.5, self._try_to_store, number)
