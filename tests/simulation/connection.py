"""Stands in for the thread that connects to the broker, under the real code of supervisor/broker/."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any
from unittest import mock

from supervisor.broker import PulsarBroker
from supervisor.broker.connection import OPERATION_TIMEOUT, RETRY_FIRST, RETRY_LONGEST, LossTimer
from supervisor.broker.partitions import PartitionedConsumer
from supervisor.events import BrokerDown, BrokerUp, MessageKey, Received
from tests.simulation.claims_topic import SimClaimsTopic
from tests.simulation.library import Consumer, Link, PulsarException

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

CHECK_INTERVAL = 0.1  # seconds: how soon the thread of the connection notices a change (supervisor.broker.connection)


class SimConnection:
    """supervisor.broker.connection.Connection, without its thread and over the simulated library."""

    def __init__(self, node: SimNode, link: Link) -> None:
        self._node = node
        self._world = node.world
        self._link = link
        self.intake: Any = None
        self.client: object = None
        self.consumer: Any = None
        self.claims = SimClaimsTopic(node.world, link, link.server.claims, node.loop.post)
        self.parts: list[Consumer] = []  # the library's consumers: one, or one for each partition
        self.records: Link | None = None
        self.token = ""
        self.connects_late_until = 0.0  # the library's own pauses between attempts have grown long
        self._leave: tuple[int, float] | None = None
        self._away_until = 0.0
        self._is_watching = self._is_retrying = False
        self._subscribing_since = 0.0

    def start(self) -> None:
        """Connect, soon."""
        self._world.after(self._world.dice.uniform(0.05, 0.5), self._connect, RETRY_FIRST)

    def use_token(self, token: str) -> None:
        """Use it at the next connection."""
        self.token = token

    def _connect(self, pause: float) -> None:
        if self._link.is_closed:
            return
        if self._link.is_up:
            self.client = self.records = self._link
            self._link.has_producer = True
            self.claims.back()
            self.claims.open()
            self._node.loop.post(BrokerUp())
            self._act()
        else:
            self._node.loop.post(BrokerDown("connection refused"))
            self._world.after(pause, self._connect, min(pause * 2, RETRY_LONGEST))

    def wake(self) -> None:
        """Wake the thread."""
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
            self.parts.clear()
        if self.consumer is None and self.intake.is_wanted():
            if self._world.now < self._away_until:
                self._world.at(self._away_until, self._act)
            elif self._link.is_up and not self._link.server.is_moving:
                self._subscribing_since = 0.0
                self.consumer = self.intake.attach(self._subscribe)
            else:  # subscribing waits
                now = self._world.now
                self._subscribing_since = self._subscribing_since or now
                if now - self._subscribing_since >= OPERATION_TIMEOUT:
                    self._drop()
                elif not self._is_retrying:
                    self._is_retrying = True
                    self._world.after(0.25, self._retry)

    def _retry(self) -> None:
        self._is_retrying = False
        self._act()

    def _subscribe(self, listener: Callable[[Any, Any], None]) -> Any:
        if self._link.server.partitions == 1:
            return self._subscribe_to("", listener)
        consumer = PartitionedConsumer(self._subscribe_to, listener)
        consumer.add(self._topics())
        self._world.after(CHECK_INTERVAL, self._tend_partitions, consumer)
        return consumer

    def _topics(self) -> list[str]:
        return [f"partition-{number}" for number in range(self._link.server.partitions)]

    def _tend_partitions(self, consumer: PartitionedConsumer) -> None:
        if self.consumer is consumer and not self._link.is_closed:
            self.intake.ask_more()
            if self._link.is_up:
                consumer.add(self._topics())
            self._world.after(CHECK_INTERVAL, self._tend_partitions, consumer)

    def _subscribe_to(self, topic: str, listener: Callable[[Any, Any], None]) -> Consumer:
        partition = int(topic.rpartition("-")[2] or 0)
        consumer = Consumer(self._world, self._link.server, listener, topic, partition)
        consumer.is_leaving = lambda: not self._node.is_serving
        self.parts.append(consumer)
        self._world.after(0.002, self._subscribed, consumer)
        return consumer

    def _subscribed(self, consumer: Consumer) -> None:
        if self._link.is_up:
            consumer.connect()
        if not self._link.is_closed and not consumer.is_connected() and not consumer.is_closed:
            self._world.after(0.25, self._subscribed, consumer)

    def lost(self, records: bool = True) -> None:
        """The connection is gone; the library connects again by itself.

        Args:
            records: that of the records, too.
        """
        for consumer in self.parts:
            consumer.disconnect()
        self._world.after(CHECK_INTERVAL, self._notice_loss)
        if records:
            self._link.has_producer = False
            self.claims.lost()
        if not self._is_watching and self.records is not None:
            self._is_watching = True
            self._watch(LossTimer())

    def _notice_loss(self) -> None:
        if not self._is_consumer_up():
            self.intake.disconnected()

    def back(self) -> None:
        """The library connects again, a moment after it can, or much later."""
        delay = self._world.dice.uniform(0.1, 2.0)
        if self._world.now < self.connects_late_until:
            delay += self.connects_late_until - self._world.now
        self._world.after(delay, self._back, list(self.parts))

    def _back(self, parts: list[Consumer]) -> None:
        if not self._link.is_up:
            return
        if self.records is not None and not self._link.has_producer:
            self._link.has_producer = True
            self.claims.back()
        lost = [consumer for consumer in parts if not consumer.is_connected()]  # two losses in a row end with one
        for consumer in lost:
            consumer.connect()
        if any(consumer in self.parts for consumer in lost):
            self._world.after(CHECK_INTERVAL, self.intake.reconnected)

    def _watch(self, lost: LossTimer) -> None:
        """What the thread does while something is without a connection (Connection._serve)."""
        if self._link.is_closed or self.records is None or self.is_up():
            self._is_watching = False
            return
        if lost.is_due(self._world.now, False) and not self._mend():
            self._is_watching = False
            self._drop()
            return
        self._world.after(CHECK_INTERVAL, self._watch, lost)

    def _mend(self) -> bool:
        if not self._link.is_up:
            self._node.loop.post(BrokerDown("connection refused"))
            return True
        has_consumer = self._is_consumer_up()
        if not self._link.has_producer and (self.consumer is None or not has_consumer):
            return False
        if not self._link.has_producer:
            self._world.faults["producer made anew"] += 1
            self._link.has_producer = True
            self._link.fail_pending()
            self.claims.back()
        elif not has_consumer:
            self._world.faults["consumer made anew"] += 1
            self.intake.detach()
            self._close_consumer()
            self._act()
        return True

    def _drop(self) -> None:
        """Make all of it anew."""
        self._world.faults["client made anew"] += 1
        self.intake.detach()
        self._close_consumer()
        self.client = self.records = None
        self._subscribing_since = 0.0
        self._link.fail_pending()
        self.claims.fail_pending()
        self._world.after(0.05, self._connect, RETRY_FIRST)

    def _close_consumer(self) -> None:
        self.consumer = None
        for consumer in self.parts:
            consumer.close()
        self.parts.clear()

    def _is_consumer_up(self) -> bool:
        return self.consumer is None or bool(self.consumer.is_connected())

    def is_up(self) -> bool:
        """Whether the library shows that it is connected."""
        return self.records is not None and self._link.is_up and self._link.has_producer and self._is_consumer_up()

    def close(self) -> None:
        """Close consumers and producers."""
        self._node.block(0.05 if self._link.is_up else 2.0, lambda: False)
        self._close_consumer()
        self._link.is_closed = True

    def kill(self) -> None:
        """The process is gone."""
        for consumer in self.parts:
            consumer.kill()
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
    def early(self) -> Collection[MessageKey]:
        """Messages that came when there was no room."""
        return self._intake._early

    @property
    def closed_since(self) -> float | None:
        """Since when the intake is closed; None: it is open, and the node may be full."""
        return self._intake.closed_since()

    def seen(self, received: Received) -> None:
        """It counts as what is taken, whatever became of it before."""
        self._node.retried.discard(received.key)
        super().seen(received)

    def ack(self, received: Received) -> None:
        """Only after the record is stored."""
        self._node.check_ack(received)
        super().ack(received)

    def publish_claims(self, number: int, message: bytes) -> None:
        """Over the simulated topic."""
        self.connection.claims.publish(number, message)

    def read_claims(self, reach_s: float, remember_s: float) -> None:
        """Over the simulated topic."""
        self.connection.claims.read(reach_s, remember_s)

    def publish_record(self, number: int, record: bytes) -> None:
        """Store it, or not."""
        self._node.store(number, record, "record")

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        """Store it, or not."""
        self._node.store(number, b"", "letter")
