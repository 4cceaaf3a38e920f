"""Which messages no other node can have had before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.claims.freshness import FRAME_AFTER, MOST_PUBLISHERS, Freshness
from supervisor.events import Received

WALL = 1e9


class Messages:
    """Messages that come one a second, from publishers whose clocks differ from the node's."""

    def __init__(self) -> None:
        self.freshness, self.now = Freshness(), 0.0

    def message(self, age: float = 0.0, *, behind: float = 0.0, redeliveries: int = 0, by: str = "p") -> Received:
        """Return the next message.

        Args:
            behind: seconds by which the publisher's clock is behind the node's.
        """
        self.now += 1.0
        published = WALL + self.now - age - behind
        return Received(None, (1, 1, 0, -1), b"", published, WALL + self.now, self.now, redeliveries, publisher=by)

    def is_new(self, age: float = 0.0, *, behind: float = 0.0, redeliveries: int = 0, by: str = "p") -> bool:
        """Return whether the next message is new."""
        return self.freshness.is_new(self.message(age, behind=behind, redeliveries=redeliveries, by=by))

    def know(self, behind: float = 0.0, by: str = "p") -> None:
        """Look the first message of a publisher up; nobody had it before."""
        first = self.message(behind=behind, by=by)
        self.freshness.is_new(first)
        self.freshness.was_new(first)


def test_the_first_message_of_a_publisher_is_looked_up() -> None:
    assert not Messages().is_new()


def test_messages_are_looked_up_until_the_claims_have_shown_that_one_was_new() -> None:
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
    assert [messages.freshness.is_new(first), messages.freshness.is_new(replace(first, key=(1, 2, 0, -1)))] == [True] * 2


def test_a_redelivered_message_does_not_show_the_publishers_clock() -> None:
    messages = Messages()
    redelivered = messages.message(50.0, redeliveries=1)
    messages.freshness.is_new(redelivered)
    messages.freshness.was_new(redelivered)
    assert not messages.is_new()


def test_an_old_message_that_nobody_had_lets_no_redelivered_one_through() -> None:
    """After a long outage the first message may be old; the least age falls to the truth with the next ones."""
    messages = Messages()
    old = messages.message(50.0)
    messages.freshness.is_new(old)
    messages.freshness.was_new(old)
    assert messages.is_new(0.0)
    assert not messages.is_new(1.0)


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
