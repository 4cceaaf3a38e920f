"""A topic with its consumers, twice: on a real Pulsar, and on the simulated one. For the tests of what is assumed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import pulsar

from supervisor.broker.intake import is_last_of_entry
from tests.simulation.library import Consumer
from tests.simulation.pulsar import Server
from tests.simulation.schedule import TaskPlan
from tests.simulation.world import World
from tests.support.wait import until, until_equal

TIMEOUT = 30.0  # seconds; a bound for a broken run
QUIET = 1.0  # seconds in which nothing may come: ten times the library's longest delay

Came = list[tuple[str, int]]  # payload and redelivery count of each message, in the order in which they came


class Side(Protocol):
    """A topic with its consumers: the real one, or the simulated."""

    def publish(self, *payloads: str) -> None:
        """Store the messages as one entry."""

    def subscribe(self, name: str) -> None:
        """Open a consumer, whose listener pauses it after each entry."""

    def consumer(self, name: str) -> Any:
        """The library's consumer."""

    def came(self, name: str) -> Came:
        """What the consumer has got."""

    def message(self, name: str, payload: str) -> Any:
        """The message that the consumer got last with this payload."""

    def expect(self, name: str, came: Came) -> None:
        """Wait until the consumer has got exactly this."""

    def take(self, name: str, last: str) -> Came:
        """Have the consumer take entries until this payload has come; return all that it has got."""

    def quiet(self) -> None:
        """Let so much time pass that whatever would come has come."""


class Listening:
    """Notes what each consumer gets, and pauses it after each entry, as supervisor.broker.intake does."""

    def __init__(self) -> None:
        self.consumers: dict[str, Any] = {}
        self.got: dict[str, list[Any]] = {}

    def listener(self, name: str) -> Callable[[Any, Any], None]:
        self.got[name] = []

        def listen(consumer: Any, message: Any) -> None:
            self.got[name].append(message)
            if is_last_of_entry(message):
                consumer.pause_message_listener()

        return listen

    def consumer(self, name: str) -> Any:
        return self.consumers[name]

    def came(self, name: str) -> Came:
        return [(message.data().decode(), message.redelivery_count()) for message in list(self.got[name])]

    def has_come(self, name: str, last: str) -> bool:
        """Whether this is what came last; if not, the consumer goes on."""
        came = self.came(name)
        if came and came[-1][0] == last:
            return True
        self.consumer(name).resume_message_listener()
        return False

    def message(self, name: str, payload: str) -> Any:
        return next(message for message in reversed(self.got[name]) if message.data() == payload.encode())


def open_client(url: str) -> Any:
    """A client of the library that writes no log."""
    return pulsar.Client(url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull))


class RealSide(Listening):
    """A topic of its own on a real Pulsar, consumed as supervisor/broker/ does it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.client = open_client(url)
        self.topic = f"assumptions-{uuid.uuid4().hex[:8]}"
        self.producer = self.client.create_producer(
            self.topic, batching_enabled=True, batching_max_publish_delay_ms=10_000
        )

    def publish(self, *payloads: str) -> None:
        for payload in payloads:
            self.producer.send_async(payload.encode(), lambda *_: None)
        self.producer.flush()

    def subscribe(self, name: str, client: Any = None) -> None:
        self.consumers[name] = (client or self.client).subscribe(
            self.topic, "subscription", consumer_type=pulsar.ConsumerType.Shared,
            initial_position=pulsar.InitialPosition.Earliest, message_listener=self.listener(name),
            receiver_queue_size=1, negative_ack_redelivery_delay_ms=100, batch_index_ack_enabled=True,
        )  # fmt: skip

    def expect(self, name: str, came: Came) -> None:
        until_equal(lambda: self.came(name), came, TIMEOUT, f"messages at {name}")

    def take(self, name: str, last: str) -> Came:
        until(lambda: self.has_come(name, last), TIMEOUT, f"{last} at {name}")
        return self.came(name)

    def quiet(self) -> None:
        time.sleep(QUIET)


class SimSide(Listening):
    """The same on the simulated library."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.world = World(seed)
        self.server = Server(self.world, index_acks=True)

    def publish(self, *payloads: str) -> None:
        plans = [TaskPlan(payload, False, 1, 0.0) for payload in payloads]
        self.server.publish(plans, [payload.encode() for payload in payloads], 0.0)

    def subscribe(self, name: str) -> None:
        consumer = self.consumers[name] = Consumer(self.world, self.server, self.listener(name))
        consumer.connect()
        self.world.run(self.world.now + 0.1)  # subscribing takes a moment, in which messages come

    def expect(self, name: str, came: Came) -> None:
        self.world.run(self.world.now + TIMEOUT, lambda: self.came(name) == came)
        assert self.came(name) == came

    def take(self, name: str, last: str) -> Came:
        for _ in range(100):
            if self.has_come(name, last):
                return self.came(name)
            self.world.run(self.world.now + 0.1)
        raise AssertionError(self.came(name))

    def quiet(self) -> None:
        self.world.run(self.world.now + QUIET)
