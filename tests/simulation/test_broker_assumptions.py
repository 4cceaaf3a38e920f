"""What the simulation assumes of the broker and its library: one script, run against real and simulated ones."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pulsar
import pytest

from devstack.broker import Broker
from supervisor.broker.intake import is_last_of_entry
from tests.simulation.library import Consumer
from tests.simulation.pulsar import Server
from tests.simulation.schedule import TaskPlan
from tests.simulation.world import World
from tests.support.wait import until_equal

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

    def message(self, name: str, payload: str) -> Any:
        return next(message for message in reversed(self.got[name]) if message.data() == payload.encode())


class RealSide(Listening):
    """A topic of its own on a real Pulsar, consumed as supervisor/broker/ does it."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        logger = pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull)
        self.client = pulsar.Client(broker.url, logger=logger)
        self.topic = f"assumptions-{uuid.uuid4().hex[:8]}"
        self.producer = self.client.create_producer(
            self.topic, batching_enabled=True, batching_max_publish_delay_ms=10_000
        )

    def publish(self, *payloads: str) -> None:
        for payload in payloads:
            self.producer.send_async(payload.encode(), lambda *_: None)
        self.producer.flush()

    def subscribe(self, name: str) -> None:
        self.consumers[name] = self.client.subscribe(
            self.topic, "subscription", consumer_type=pulsar.ConsumerType.Shared,
            initial_position=pulsar.InitialPosition.Earliest, message_listener=self.listener(name),
            receiver_queue_size=1, negative_ack_redelivery_delay_ms=100, batch_index_ack_enabled=True,
        )  # fmt: skip

    def expect(self, name: str, came: Came) -> None:
        until_equal(lambda: self.came(name), came, TIMEOUT, f"messages at {name}")

    def quiet(self) -> None:
        time.sleep(QUIET)


class SimSide(Listening):
    """The same on the simulated library."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(1)
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

    def quiet(self) -> None:
        self.world.run(self.world.now + QUIET)


@pytest.fixture(params=["real", "simulated"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param == "simulated":
        yield SimSide()
        return
    one = RealSide(request.getfixturevalue("broker"))
    yield one
    one.client.close()


def test_a_paused_consumer_is_given_nothing_and_keeps_nothing_from_others(side: Side) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.publish("b")
    side.publish("c")
    side.quiet()
    assert side.came("A") == [("a", 0)]
    side.subscribe("B")
    side.expect("B", [("b", 0)])
    side.quiet()
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("c", 0)])
    assert side.came("B") == [("b", 0)]


def test_what_a_closed_consumer_has_not_acked_is_redelivered_and_counts_as_no_redelivery(side: Side) -> None:
    side.publish("a")
    side.publish("b")
    side.subscribe("A")
    side.subscribe("B")
    side.expect("A", [("a", 0)])
    side.expect("B", [("b", 0)])
    side.consumer("A").close()
    side.consumer("B").resume_message_listener()
    side.expect("B", [("b", 0), ("a", 0)])


def test_a_close_sends_the_acks_that_were_collected(side: Side) -> None:
    side.publish("a")
    side.subscribe("A")
    side.subscribe("B")
    side.expect("A", [("a", 0)])
    side.consumer("A").acknowledge(side.message("A", "a"))
    side.consumer("A").close()
    side.quiet()
    assert side.came("B") == []


def test_an_ack_on_a_closed_consumer_raises(side: Side) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.consumer("A").close()
    with pytest.raises(Exception, match="AlreadyClosed"):
        side.consumer("A").acknowledge(side.message("A", "a"))
    side.consumer("A").negative_acknowledge(side.message("A", "a"))  # does nothing


def test_a_nak_brings_the_message_to_any_consumer_and_counts(side: Side) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.subscribe("B")
    side.consumer("A").negative_acknowledge(side.message("A", "a"))
    side.expect("B", [("a", 1)])
    side.consumer("B").negative_acknowledge(side.message("B", "a"))
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 2)])


def test_a_batch_comes_whole_and_comes_again_without_what_was_acked(side: Side) -> None:
    side.publish("a", "b", "c")
    side.publish("d")
    side.subscribe("A")
    side.expect("A", [("a", 0), ("b", 0), ("c", 0)])
    side.consumer("A").acknowledge(side.message("A", "a"))
    side.quiet()  # acks are collected for a while
    side.subscribe("B")
    side.expect("B", [("d", 0)])
    side.consumer("A").negative_acknowledge(side.message("A", "b"))
    side.consumer("B").resume_message_listener()
    side.expect("B", [("d", 0), ("b", 1), ("c", 1)])


def test_the_counts_are_forgotten_when_the_last_consumer_has_left(side: Side) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.consumer("A").negative_acknowledge(side.message("A", "a"))
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 1)])
    side.consumer("A").close()
    side.subscribe("B")
    side.expect("B", [("a", 0)])


def test_each_message_of_a_shared_subscription_goes_to_one_consumer(side: Side) -> None:
    side.subscribe("A")
    side.subscribe("B")
    side.publish("a")
    side.publish("b")
    side.quiet()
    came = [*side.came("A"), *side.came("B")]
    assert sorted(came) == [("a", 0), ("b", 0)]
    assert len(side.came("A")) == len(side.came("B")) == 1


def test_a_batch_of_a_closed_consumer_comes_to_another_without_what_was_acked(side: Side) -> None:
    side.publish("a", "b", "c")
    side.subscribe("A")
    side.expect("A", [("a", 0), ("b", 0), ("c", 0)])
    side.consumer("A").acknowledge(side.message("A", "b"))
    side.quiet()  # acks are collected for a while
    side.subscribe("B")
    side.consumer("A").close()
    side.expect("B", [("a", 0), ("c", 0)])
