"""The intake: messages come, what may be taken is decided; the library is asked for what there is room for."""

from __future__ import annotations

import pytest

from supervisor.broker.intake import GIVE_BACK, WAIT_FOR_ROOM, Intake
from supervisor.events import ASKED_FOR, Received
from tests.support.fake_pulsar import Consumer, Message


class Setup:
    """An intake with a consumer of the fake library, and what it took."""

    def __init__(self) -> None:
        self.now = 100.0
        self.taken: list[int] = []
        self.received: list[Received] = []
        self.intake = Intake(self._take, lambda: self.now)
        self.consumer = Consumer(None, 1)
        self.attach()

    def _take(self, received: Received) -> None:
        self.taken.append(received.key[1])
        self.received.append(received)

    def attach(self) -> Consumer:
        def subscribe(listener: object) -> Consumer:
            self.consumer = Consumer(listener, 1)
            return self.consumer

        self.intake.attach(subscribe)
        return self.consumer

    def seen(self, count: int) -> None:
        for _ in range(count):
            self.intake.seen()

    def given_back(self) -> list[int]:
        return [received.key[1] for received in self.intake.overdue(self.now)]


def test_no_more_is_taken_than_allowed_and_nothing_more_is_asked_for() -> None:
    one = Setup()
    one.intake.allow(2)
    one.consumer.deliver(Message(1))
    assert one.consumer.permits == 1
    one.consumer.deliver(Message(2))
    assert one.taken == [1, 2]
    assert one.consumer.permits == 0


def test_room_again_asks_for_a_message_again() -> None:
    one = Setup()
    one.intake.allow(1)
    one.consumer.deliver(Message(1))
    one.seen(1)
    one.intake.allow(0)
    assert one.consumer.permits == 0
    one.intake.allow(1)
    assert one.consumer.permits == 1
    one.consumer.deliver(Message(2))
    assert one.taken == [1, 2]


def test_a_message_on_its_way_is_not_allowed_twice() -> None:
    """Taken, but not seen by the owner yet: what it allows includes this message."""
    one = Setup()
    one.intake.allow(1)
    one.consumer.deliver(Message(1))
    one.intake.allow(1)
    assert one.consumer.permits == 0
    one.seen(1)
    one.intake.allow(1)
    assert one.consumer.permits == 1


def test_a_message_that_comes_to_a_full_node_is_served_when_there_is_room() -> None:
    one = Setup()
    one.intake.allow(0)
    one.consumer.deliver(Message(1))
    one.now += GIVE_BACK / 2
    assert (one.taken, one.given_back()) == ([], [])
    one.intake.allow(1)
    assert one.taken == [1]


def test_a_message_that_comes_to_a_closed_intake_is_given_back() -> None:
    one = Setup()
    one.intake.close()
    one.consumer.deliver(Message(1))
    assert one.given_back() == []
    assert one.intake.next_overdue() == one.now + GIVE_BACK
    one.now += GIVE_BACK
    assert one.given_back() == [1]
    assert one.intake.next_overdue() == float("inf")
    assert one.consumer.permits == 0, "and no other message comes in its place"


def test_a_message_that_waits_for_room_is_given_back_once_the_intake_has_been_closed_for_a_while() -> None:
    one = Setup()
    one.intake.allow(0)
    one.consumer.deliver(Message(1))
    one.now += 100 * GIVE_BACK
    one.intake.close()
    assert one.given_back() == []
    one.now += GIVE_BACK
    assert one.given_back() == [1]


@pytest.mark.parametrize(
    ("taken", "messages", "given_back"),
    [
        (0, [Message(1)], [1]),
        (0, [Message(1, 0, 2), Message(1, 1, 2)], [1, 1]),
        (1, [Message(1, 0, 2), Message(1, 1, 2)], []),
    ],
    ids=["a message", "a batch", "the rest of a batch"],
)
def test_what_waits_at_a_node_that_stays_full_is_given_back_unless_a_part_of_it_was_taken(
    taken: int, messages: list[Message], given_back: list[int]
) -> None:
    one = Setup()
    one.intake.allow(1)
    if not taken:
        one.intake.allow(0)  # a worker died after the broker had been asked for a message
    for message in messages:
        one.consumer.deliver(message)
    one.seen(taken)
    one.intake.allow(0)
    one.now += WAIT_FOR_ROOM - 0.1
    assert one.given_back() == []
    one.now += 0.1
    assert one.given_back() == given_back


@pytest.mark.parametrize("messages", [[(-1, 0)], [(0, 2), (1, 2)]], ids=["a message", "a batch"])
def test_what_was_taken_before_and_comes_again_is_given_back_like_any_other(messages: list[tuple[int, int]]) -> None:
    one = Setup()
    one.intake.allow(len(messages))
    for index, size in messages:
        one.consumer.deliver(Message(1, index, size))
    one.seen(len(messages))
    one.intake.allow(1)
    one.intake.allow(0)
    for index, size in messages:
        one.consumer.deliver(Message(1, index, size, redeliveries=1))
    one.now += WAIT_FOR_ROOM
    assert one.given_back() == [1] * len(messages)


def test_what_waits_here_may_be_taken_without_asking_for_more() -> None:
    one = Setup()
    one.intake.allow(1)
    for index in range(3):
        one.consumer.deliver(Message(1, index, 3))
    one.seen(1)
    one.intake.allow(5, ask=False)
    assert one.taken == [1, 1, 1]
    assert one.consumer.permits <= 0


def test_an_intake_that_opens_in_time_serves_what_waited() -> None:
    one = Setup()
    one.intake.close()
    one.consumer.deliver(Message(1))
    one.now += GIVE_BACK / 2
    one.intake.allow(1)
    one.now += GIVE_BACK
    assert one.given_back() == []
    assert one.taken == [1]


def test_a_batch_is_received_whole_and_what_has_no_room_waits() -> None:
    one = Setup()
    one.intake.allow(2)
    one.consumer.deliver(*(Message(1, index, 5) for index in range(5)))
    assert len(one.taken) == 2
    assert one.intake.has_early_of_batch((1, 1, -1))
    assert one.consumer.permits == 0, "the whole batch was received, and no further message was asked for"
    one.seen(2)
    one.intake.allow(3)
    assert len(one.taken) == 5
    assert not one.intake.has_early_of_batch((1, 1, -1))


def test_a_message_that_is_redelivered_while_it_waits_is_served_once() -> None:
    one = Setup()
    one.intake.allow(0)
    one.consumer.deliver(Message(1))
    one.consumer.reconnect()
    one.intake.reconnected()
    one.consumer.deliver(Message(1))
    one.intake.allow(5)
    assert one.taken == [1]


def test_after_a_reconnection_what_the_library_asked_for_by_itself_is_not_kept_hidden() -> None:
    """The library asks for a message when it has subscribed anew, even if its listener is paused."""
    one = Setup()
    one.intake.allow(1)
    one.consumer.deliver(Message(1))  # pauses it
    one.seen(1)
    one.intake.close()
    one.consumer.reconnect()
    one.consumer.deliver(Message(2))
    one.now += GIVE_BACK
    assert one.given_back() == []  # it lies in the library's queue
    one.intake.reconnected()
    one.consumer.run()
    one.now += GIVE_BACK
    assert one.given_back() == [2]
    assert one.consumer.permits == 0


@pytest.mark.parametrize("connects_again", ["by itself", "with a new consumer"])
def test_a_message_shows_whether_the_node_has_asked_in_vain_since_it_connected(connects_again: str) -> None:
    one = Setup()
    one.intake.allow(9)
    shown: list[bool] = []
    for pause in (0.0, ASKED_FOR * 2, 0.0):
        one.now += pause
        one.consumer.deliver(Message(len(shown)))
        one.intake.allow(9)
        shown.append(one.received[-1].has_waited)
    assert shown == [False, True, True]
    if connects_again == "by itself":
        one.intake.reconnected()
    else:
        one.attach()
    one.intake.allow(9)
    one.consumer.deliver(Message(9))
    assert not one.received[-1].has_waited


def test_what_a_closed_consumer_still_brings_is_dropped() -> None:
    one = Setup()
    one.intake.allow(5)
    old = one.consumer
    one.intake.detach()
    old.deliver(Message(1))
    new = one.attach()
    old.deliver(Message(2))
    new.deliver(Message(3))
    assert one.taken == [3]


def test_a_consumer_with_an_unseen_message_is_not_given_up() -> None:
    one = Setup()
    one.intake.allow(1)
    one.consumer.deliver(Message(1))
    assert not one.intake.detach_if_unused(0)
    one.seen(1)
    assert not one.intake.detach_if_unused(0), "a message came after it was asked for"
    assert one.intake.detach_if_unused(1)


def test_a_message_that_comes_while_subscribing_may_pause_and_the_consumer_goes_on_later() -> None:
    one = Setup()
    one.intake.detach()

    def subscribe(listener: object) -> Consumer:
        one.consumer = Consumer(listener, 1)
        one.consumer.deliver(Message(7))  # the library's thread may be faster than the one that subscribes
        one.intake.allow(1)
        return one.consumer

    one.intake.attach(subscribe)
    assert one.taken == [7]
    one.seen(1)
    one.intake.allow(1)
    assert one.consumer.permits == 1


def test_the_event_has_the_messages_place_payload_and_count() -> None:
    events: list[Received] = []
    intake = Intake(events.append, lambda: 5.0)
    intake.allow(1)
    made: list[Consumer] = []
    intake.attach(lambda listener: made.append(Consumer(listener, 1)) or made[0])
    made[0].deliver(Message(3, 0, 1, redeliveries=2))
    (event,) = events
    assert event.key == (1, 3, -1, 0)
    assert (event.payload, event.redeliveries, event.received_at) == (b"3/0", 2, 5.0)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_message_was_not_asked_for_while_there_was_no_connection(is_lost: bool) -> None:
    """It may have waited at the broker meanwhile: its age shows nothing of its publisher's clock (seed 122002674)."""
    one = Setup()
    one.intake.allow(1)
    if is_lost:
        one.intake.disconnected()
    one.now += 100.0
    one.intake.allow(1)
    one.now += 100.0
    one.consumer.deliver(Message(1))
    assert [received.asked_for for received in one.received] == [0.0 if is_lost else 200.0]
    one.seen(1)
    one.intake.reconnected()
    one.intake.allow(1)
    one.now += 5.0
    one.consumer.deliver(Message(2))
    assert one.received[-1].asked_for == 5.0
