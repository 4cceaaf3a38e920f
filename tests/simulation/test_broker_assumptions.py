"""What the simulation assumes of the broker and its library: one script, run against real and simulated ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.sides import RealSide, Side, SimSide


@pytest.fixture(params=["real", "simulated"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param == "simulated":
        yield SimSide()
        return
    one = RealSide(request.getfixturevalue("broker").url)
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


def test_after_a_batch_that_comes_without_its_last_message_one_more_is_asked_for(side: Side) -> None:
    side.publish("a", "b", "c")
    side.publish("d")
    side.publish("e")
    side.subscribe("A")
    side.expect("A", [("a", 0), ("b", 0), ("c", 0)])
    side.consumer("A").acknowledge(side.message("A", "c"))
    side.quiet()  # acks are collected for a while
    side.consumer("A").negative_acknowledge(side.message("A", "a"))
    side.quiet()
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("d", 0)])
    side.quiet()
    assert side.came("A")[-1] == ("d", 0)


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
