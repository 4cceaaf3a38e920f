"""A partitioned topic: one partition after the other is asked, so that little more comes than there is room for."""

from __future__ import annotations

from supervisor.broker.intake import Intake
from supervisor.broker.partitions import Listener, PartitionedConsumer
from tests.support.fake_pulsar import Consumer, Message


class PartitionMessage(Message):
    """A message of a partition."""

    def __init__(self, topic: str, entry: int) -> None:
        super().__init__(entry)
        self._topic = topic

    def topic_name(self) -> str:
        return self._topic


class Setup:
    """An intake with a consumer for three partitions."""

    def __init__(self) -> None:
        self.now = 0.0
        self.taken: list[int] = []
        self.parts: dict[str, Consumer] = {}
        self.intake = Intake(lambda received: self.taken.append(received.key[1]), lambda: self.now)
        self.consumer: PartitionedConsumer = self.intake.attach(self._subscribe)

    def _subscribe(self, listener: Listener) -> PartitionedConsumer:
        def subscribe_to(topic: str, listener: Listener) -> Consumer:
            self.parts[topic] = Consumer(listener, 1)
            return self.parts[topic]

        consumer = PartitionedConsumer(subscribe_to, listener)
        consumer.add(["a", "b", "c"])
        return consumer

    def deliver(self, topic: str, entry: int) -> None:
        self.parts[topic].deliver(PartitionMessage(topic, entry))

    def pause_all(self) -> None:
        """Each partition was asked once, and has answered."""
        self.intake.allow(1)
        for entry, topic in enumerate("abc"):
            self.deliver(topic, entry)
        self.intake.seen()
        self.intake.allow(2)
        for _ in range(2):
            self.intake.seen()
        assert self.permits == [0, 0, 0]

    @property
    def permits(self) -> list[int]:
        return [part.permits for part in self.parts.values()]


def test_each_partition_that_was_asked_gives_a_message_at_most() -> None:
    one = Setup()
    one.intake.allow(1)
    for entry, topic in enumerate("abc"):
        one.deliver(topic, entry)
    assert one.taken == [0]
    assert one.permits == [0, 0, 0], "nothing more is asked for"
    assert len(one.intake._early) == 2


def test_room_asks_one_partition_and_then_the_next_in_turn() -> None:
    one = Setup()
    one.pause_all()
    asked = []
    for entry in range(3, 9):
        one.intake.allow(1)
        (topic,) = [topic for topic, part in one.parts.items() if part.permits > 0]
        asked.append(topic)
        one.deliver(topic, entry)
        one.intake.seen()
    assert sorted(asked[:3]) == sorted(asked[3:]) == ["a", "b", "c"]


def test_an_empty_partition_does_not_keep_the_others_waiting() -> None:
    one = Setup()
    one.pause_all()
    one.intake.allow(1)
    assert sum(one.permits) == 1
    one.intake.ask_more()  # the one that was asked has had nothing for a while
    assert sum(one.permits) == 2
    one.intake.allow(0)
    one.intake.ask_more()
    assert sum(one.permits) == 2


def test_acks_and_naks_go_to_the_partition_that_brought_the_message() -> None:
    one = Setup()
    one.consumer.acknowledge(PartitionMessage("b", 5))
    one.consumer.negative_acknowledge(PartitionMessage("c", 6))
    assert [(part.acked, part.naked) for part in one.parts.values()] == [([], []), ([5], []), ([], [6])]


def test_a_partition_that_is_added_is_asked_and_the_others_stay() -> None:
    one = Setup()
    before = dict(one.parts)
    one.consumer.add(["a", "b", "c", "d"])
    assert {topic: one.parts[topic] for topic in before} == before
    one.intake.allow(1)
    one.deliver("d", 9)
    assert one.taken == [9]


def test_after_a_reconnection_every_partition_shows_what_it_was_given() -> None:
    one = Setup()
    one.intake.close()
    for entry, topic in enumerate("abc"):
        one.deliver(topic, entry)
    for part in one.parts.values():
        part.reconnect()
    for entry, topic in enumerate("abc", 10):
        one.deliver(topic, entry)
    one.intake.reconnected()
    for part in one.parts.values():
        part.run()
    assert {key[1] for key in one.intake._early} == {0, 1, 2, 10, 11, 12}


def test_after_a_reconnection_a_paused_partition_shows_what_it_was_given_although_another_is_asked() -> None:
    one = Setup()
    one.intake.close()
    for entry, topic in enumerate("abc"):
        one.deliver(topic, entry)
    one.intake.allow(4)  # the three that wait, and one more, for which one partition is asked
    one.intake.close()
    for part in one.parts.values():
        part.reconnect()
    one.deliver("b", 11)
    one.deliver("c", 12)
    one.intake.reconnected()
    for part in one.parts.values():
        part.run()
    assert {key[1] for key in one.intake._early} == {11, 12}


def test_it_is_connected_while_all_partitions_are_and_closes_them_all() -> None:
    one = Setup()
    assert one.consumer.is_connected()
    one.parts["b"].is_up = False
    assert not one.consumer.is_connected()
    one.consumer.close()
    assert all(part.is_closed for part in one.parts.values())
