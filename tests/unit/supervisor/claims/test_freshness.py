"""Which messages no other node can have had before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.claims.freshness import FRAME_AFTER, LAST_CLAIMS, LEAST_ASKED, MOST_PUBLISHERS, RECENT, Freshness
from supervisor.events import ASKED_FOR, Received

WALL = 1e9


class Messages:
    """Messages that come one a second, from publishers whose clocks differ from the node's."""

    def __init__(self) -> None:
        self.freshness, self.now = Freshness(), 0.0

    def message(
        self, age: float = 0.0, *, behind: float = 0.0, redeliveries: int = 0, by: str = "p", asked_for: float = 1.0
    ) -> Received:
        """Return the next message.

        Args:
            behind: seconds by which the publisher's clock is behind the node's.
            asked_for: seconds for which the node has asked for a message.
        """
        self.now += 1.0
        published = WALL + self.now - age - behind
        return Received(
            None, (1, 1, 0, -1), b"", published, WALL + self.now, self.now, redeliveries,
            publisher=by, asked_for=asked_for, stamped=published,
        )  # fmt: skip

    def is_new(self, age: float = 0.0, *, behind: float = 0.0, redeliveries: int = 0, by: str = "p") -> bool:
        """Return whether the next message is new."""
        return self.freshness.is_new(self.message(age, behind=behind, redeliveries=redeliveries, by=by))

    def know(self, behind: float = 0.0, by: str = "p") -> None:
        """Look the first messages of a publisher up; nobody had them before."""
        self.look_up(self.message(behind=behind, by=by))
        self.look_up(self.message(behind=behind, by=by))

    def look_up(self, message: Received) -> None:
        """Look a message up; nobody had it before."""
        self.freshness.is_new(message)
        self.freshness.was_new(message.received_at, message)


def test_the_first_message_of_a_publisher_is_looked_up() -> None:
    assert not Messages().is_new()


def test_messages_are_looked_up_until_the_claims_have_shown_that_two_were_new() -> None:
    messages = Messages()
    assert [messages.is_new() for _ in range(3)] == [False, False, False]
    messages.know()
    assert messages.is_new()


@pytest.mark.parametrize("behind", [0.0, 2.0, -2.0, 3600.0])
def test_the_age_counts_from_the_least_age_whatever_the_difference_of_the_clocks(behind: float) -> None:
    messages = Messages()
    messages.know(behind)
    assert messages.is_new(FRAME_AFTER / 2, behind=behind)
    assert not messages.is_new(FRAME_AFTER * 1.5, behind=behind)
    assert messages.is_new(0.0, behind=behind), "the next one is new again"


def test_a_redelivered_message_is_looked_up() -> None:
    messages = Messages()
    messages.know()
    assert not messages.is_new(redeliveries=1)


def test_a_message_that_was_published_before_one_that_is_here_is_looked_up() -> None:
    """It was handed out before, to somebody."""
    messages = Messages()
    messages.know()
    first, second = messages.message(), messages.message()
    assert messages.freshness.is_new(second)
    assert not messages.freshness.is_new(replace(first, received=second.received))


def test_a_message_of_the_same_moment_as_the_one_before_is_new() -> None:
    messages = Messages()
    messages.know()
    first = messages.message()
    assert [messages.freshness.is_new(first), messages.freshness.is_new(replace(first, key=(1, 2, 0, -1)))] == [
        True
    ] * 2


def test_a_redelivered_message_does_not_show_the_publishers_clock() -> None:
    messages = Messages()
    for _ in range(2):
        messages.look_up(messages.message(50.0, redeliveries=1))
    assert not messages.is_new()


def test_messages_that_have_waited_at_the_broker_do_not_show_the_publishers_clock() -> None:
    """All are old then, and one of another node that was killed is no older than they are."""
    messages = Messages()
    for _ in range(10):
        messages.look_up(messages.message(50.0, asked_for=ASKED_FOR / 2))
    assert not messages.is_new(40.0)


@pytest.mark.parametrize(
    ("took", "is_known"),
    [
        ([0.004] * LAST_CLAIMS, True),
        ([0.004] * (LAST_CLAIMS - 1), False),
        ([0.004] * (LAST_CLAIMS - 1) + [0.05], False),
        ([0.05] + [0.004] * LAST_CLAIMS, True),
    ],
    ids=["quick", "not known yet", "one was slow", "one was slow long ago"],
)
def test_a_broker_that_stores_claims_quickly_need_not_be_asked_for_long(took: list[float], is_known: bool) -> None:
    """Four nodes with 40 to 80 tasks a second: each gets one in 50 to 100 ms, and looked every one up."""
    messages = Messages()
    for seconds in took:
        messages.freshness.stored_within(seconds)
    for _ in range(2):
        messages.look_up(messages.message(0.0, asked_for=LEAST_ASKED * 1.1))
    assert messages.is_new() is is_known


def test_a_slow_broker_must_be_asked_for_longer() -> None:
    """Each message that has waited there comes after it was asked for, for as long as the way there and back takes."""
    messages = Messages()
    messages.freshness.stored_within(0.2)
    for _ in range(10):
        messages.look_up(messages.message(50.0, asked_for=0.2))
    assert not messages.is_new(40.0)
    for _ in range(2):
        messages.look_up(messages.message(0.0, asked_for=0.4))
    assert messages.is_new()


def test_one_message_that_was_on_its_way_while_the_node_stood_still_does_not_show_the_publishers_clock() -> None:
    messages = Messages()
    messages.look_up(messages.message(16.0, asked_for=16.0))
    assert not messages.is_new(5.0)
    for _ in range(2):
        messages.look_up(messages.message(0.0))
    assert not messages.is_new(5.0)
    assert messages.is_new(0.0)


def test_after_a_publishers_clock_was_set_back_its_messages_are_new_again() -> None:
    messages = Messages()
    messages.know()
    assert not messages.is_new(behind=5.0), "it comes out of order"
    messages.now += 10.0
    messages.know(behind=5.0)
    assert messages.is_new(behind=5.0)
    assert not messages.is_new(1.0, behind=5.0)


def test_publishers_are_known_apart() -> None:
    messages = Messages()
    messages.know(by="p")
    assert not messages.is_new(by="q")
    assert messages.is_new(by="p")


def test_no_more_than_some_publishers_are_remembered() -> None:
    messages = Messages()
    for number in range(MOST_PUBLISHERS + 10):
        messages.know(by=str(number))
    assert len(messages.freshness._publishers) == MOST_PUBLISHERS
    assert not messages.is_new(by="0"), "the oldest is forgotten, and looked up again"


# --- the order of a partition ---


class Busy:
    """Messages that come one behind the other, all of them old, because they have waited at the broker."""

    def __init__(self) -> None:
        self.freshness, self.now = Freshness(), 100.0

    def message(
        self, entry: int, after: float = 0.01, *, partition: int = 0, redeliveries: int = 0, has_waited: bool = True
    ) -> Received:
        """Return a message that comes so many seconds after the one before."""
        self.now += after
        published = WALL - 1000.0 + entry
        return Received(
            None, (1, entry, partition, -1), b"", published, WALL + self.now, self.now, redeliveries,
            publisher="p", stamped=published, has_waited=has_waited,
        )  # fmt: skip

    def look_up(self, message: Received, took: float = 0.01) -> None:
        """Look a message up; nobody had it before."""
        assert not self.freshness.is_new(message)
        self.now += took
        self.freshness.was_new(self.now, message)

    def flow(self) -> None:
        """Two messages are looked up, one after the other; those behind them are new."""
        self.look_up(self.message(10))
        self.look_up(self.message(11))


def test_what_comes_behind_two_messages_that_were_looked_up_is_new_however_long_it_has_waited() -> None:
    busy = Busy()
    busy.flow()
    assert [busy.freshness.is_new(busy.message(entry, RECENT * 0.4)) for entry in range(12, 40)] == [True] * 28


def test_what_stands_before_a_message_that_was_new_is_looked_up() -> None:
    """Another node had it, and is gone."""
    busy = Busy()
    busy.flow()
    assert busy.freshness.is_new(busy.message(20))
    assert not busy.freshness.is_new(busy.message(15))
    assert not busy.freshness.is_new(busy.message(20)), "the same once more"
    assert busy.freshness.is_new(busy.message(21))


def test_what_comes_behind_after_a_pause_is_looked_up() -> None:
    """Another node may have had it in the meantime."""
    busy = Busy()
    busy.flow()
    assert not busy.freshness.is_new(busy.message(12, RECENT * 2))


def test_a_redelivered_message_is_looked_up_wherever_it_stands() -> None:
    busy = Busy()
    busy.flow()
    assert not busy.freshness.is_new(busy.message(12, redeliveries=1))


def test_one_message_that_was_looked_up_shows_nothing_of_those_behind_it() -> None:
    """It may have been on its way for long: the node, or the network, stood still."""
    busy = Busy()
    busy.look_up(busy.message(10))
    assert not busy.freshness.is_new(busy.message(11))


def test_messages_that_came_together_show_nothing_of_those_behind_them() -> None:
    busy = Busy()
    both = [busy.message(10), busy.message(11)]
    for message in both:
        busy.look_up(message)
    assert not busy.freshness.is_new(busy.message(12))


def test_messages_whose_look_ups_overlap_show_that_those_behind_them_are_new() -> None:
    """A node that gets many at once: while one is looked up, the next ones come."""
    busy = Busy()
    messages = [busy.message(entry) for entry in range(10, 13)]
    for message in messages:
        assert not busy.freshness.is_new(message)
    busy.freshness.was_new(busy.now, messages[0])
    later = busy.message(13)
    assert not busy.freshness.is_new(later)
    busy.freshness.was_new(busy.now, messages[1])
    busy.freshness.was_new(busy.now, messages[2])
    busy.freshness.was_new(busy.now, later)
    assert busy.freshness.is_new(busy.message(14))


def test_a_pause_between_two_look_ups_shows_nothing() -> None:
    busy = Busy()
    busy.look_up(busy.message(10))
    busy.look_up(busy.message(11, RECENT * 2))
    assert not busy.freshness.is_new(busy.message(12))


def test_two_messages_that_come_again_show_nothing_of_those_behind_them() -> None:
    """The owner of the topic was killed: what was acked in its last seconds comes again, as the rest does."""
    busy = Busy()
    busy.freshness.is_new(busy.message(40))
    for entry in (10, 11, 12):
        busy.look_up(busy.message(entry))
    assert not busy.freshness.is_new(busy.message(13))


def test_messages_that_were_at_the_broker_when_the_node_connected_show_nothing_of_those_behind_them() -> None:
    """The broker may have been restarted: what was acked in its last seconds comes again, as the rest does."""
    busy = Busy()
    for entry in (10, 11, 12):
        busy.look_up(busy.message(entry, has_waited=False))
    assert not busy.freshness.is_new(busy.message(13, has_waited=False))


def test_what_stands_behind_all_that_has_come_is_new_once_two_of_them_were_looked_up() -> None:
    busy = Busy()
    busy.freshness.is_new(busy.message(40))
    busy.look_up(busy.message(10))
    busy.look_up(busy.message(41))
    busy.look_up(busy.message(42))
    assert busy.freshness.is_new(busy.message(43))


def test_partitions_are_known_apart() -> None:
    busy = Busy()
    busy.flow()
    assert not busy.freshness.is_new(busy.message(12, partition=1))
    assert busy.freshness.is_new(busy.message(13))


def test_a_young_message_shows_nothing_of_those_behind_it() -> None:
    """Another node may have had it for a tenth of a second, and the next one for as long."""
    messages = Messages()
    messages.know()
    young = replace(messages.message(), key=(1, 10, 0, -1))
    assert messages.freshness.is_new(young)
    old = replace(young, key=(1, 11, 0, -1), received_at=young.received_at + FRAME_AFTER * 1.5)
    assert not messages.freshness.is_new(old)
