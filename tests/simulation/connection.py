"""Stands in for the thread that connects to the broker, under the real code of supervisor/broker/."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from unittest import mock

from supervisor.broker import PulsarBroker
from supervisor.events import BrokerDown, BrokerUp, MessageKey, Received
from tests.simulation.library import Consumer, Link, PulsarException

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

CHECK_INTERVAL = 0.25  # seconds: how soon the thread of the connection notices that the library has connected again


class SimConnection:
    """supervisor.broker.connection.Connection, without its thread and over the simulated library."""

    def __init__(self, node: SimNode, link: Link) -> None:
        self._node = node
        self._world = node.world
        self._link = link
        self.intake: Any = None
        self.client: object = None
        self.consumer: Consumer | None = None
        self.records: Link | None = None
        self._leave: tuple[int, float] | None = None
        self._away_until = 0.0

    def start(self) -> None:
        """Connect, soon."""
        self._world.after(self._world.dice.uniform(0.05, 0.5), self._connect, 0.5)

    def _connect(self, pause: float) -> None:
        if self._link.is_closed:
            return
        if self._link.is_up:
            self.client = self.records = self._link
            self._node.loop.post(BrokerUp())
            self._act()
        else:
            self._node.loop.post(BrokerDown("connection refused"))
            self._world.after(pause, self._connect, min(pause * 2, 10.0))

    def wake(self) -> None:
        """Have the thread look."""
        self._world.after(0.0005, self._act)

    def ask_to_leave(self, until: float) -> None:
        """Close the consumer, unless a message comes that the owner has not seen."""
        self._leave = (self.intake.count_seen, until)
        self.wake()

    def _act(self) -> None:
        if self._link.is_closed or self.records is None:
            return
        leave, self._leave = self._leave, None
        if leave is not None and self.consumer is not None and self.intake.detach_if_unused(leave[0]):
            consumer, self.consumer = self.consumer, None
            self._away_until = leave[1]
            consumer.close()
        if self.consumer is None and self.intake.is_wanted():
            if self._world.now < self._away_until:
                self._world.at(self._away_until, self._act)
            elif not self._link.is_up:
                self._world.after(0.25, self._act)
            else:
                self.consumer = self.intake.attach(self._subscribe)

    def _subscribe(self, listener: Callable[[Any, Any], None]) -> Consumer:
        consumer = Consumer(self._world, self._link.server, listener)
        consumer.is_leaving = lambda: not self._node.is_serving
        self._world.after(0.002, self._subscribed, consumer)
        return consumer

    def _subscribed(self, consumer: Consumer) -> None:
        if self._link.is_up:
            consumer.connect()
        elif not self._link.is_closed:
            self._world.after(0.25, self._subscribed, consumer)

    def lost(self) -> None:
        """The connection is gone; the library connects again by itself."""
        if self.consumer is not None:
            self.consumer.disconnect()

    def back(self) -> None:
        """The library connects again, a moment after it can."""
        self._world.after(self._world.dice.uniform(0.1, 2.0), self._back)

    def _back(self) -> None:
        if self.consumer is not None and self._link.is_up:
            self.consumer.connect()
            self._world.after(CHECK_INTERVAL, self.intake.reconnected)

    def is_up(self) -> bool:
        """As the library tells."""
        if self.records is None or not self._link.is_up:
            return False
        return self.consumer is None or self.consumer.is_connected()

    def close(self) -> None:
        """Leave."""
        self._node.block(0.05 if self._link.is_up else 2.0, lambda: False)
        if self.consumer is not None:
            self.consumer.close()
        self._link.is_closed = True


class SimBroker(PulsarBroker):
    """The real code of supervisor/broker/, over the simulated library and without its threads."""

    def __init__(self, node: SimNode) -> None:
        library = mock.Mock(PulsarException=PulsarException)
        super().__init__(node.settings, node.loop.post, library, node.clock.monotonic, node.clock.wall)
        self._node = node
        self.connection: Any = SimConnection(node, node.link)
        self.connection.intake = self._intake
        self._connection: Any = self.connection

    @property
    def held(self) -> list[tuple[float, Received]]:
        """The naks that are held, with the moment when each is due."""
        return [(held.due, held.received) for held in self._naks._held.values()]

    @property
    def early(self) -> Iterable[MessageKey]:
        """Messages that came when there was no room."""
        return self._intake._early

    @property
    def closed_since(self) -> float | None:
        """Since when the intake is closed; None: it is open, and the node may be full."""
        return self._intake.closed_since()

    def ack(self, received: Received) -> None:
        """Only after the record is stored."""
        self._node.check_ack(received)
        super().ack(received)

    def publish_record(self, number: int, record: bytes) -> None:
        """Store it, or not."""
        self._node.store(number, record, "record")

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        """Store it, or not."""
        self._node.store(number, b"", "letter")
