"""When the adapter closes its consumer, because the node takes no tasks or steps aside, and when it must not."""

from __future__ import annotations

import pytest

from supervisor.broker.intake import GIVE_BACK
from tests.support.fake_pulsar import Message
from tests.support.wait import until
from tests.unit.supervisor.broker.adapter import TIMEOUT, Answered, Setup


def test_a_node_does_not_step_aside_while_it_holds_a_part_of_a_batch(one: Setup) -> None:
    """The broker would hand it to another node, while it is tried again here."""
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    one.broker.nak(one.receive(5, 1, 2), 10.0)
    one.broker.step_aside(2.0)
    one.broker._connection.wake()
    until(lambda: one.broker._connection._leave is None, TIMEOUT, "answer to the request")
    assert not consumer.is_closed


def test_a_consumer_is_not_closed_while_a_message_is_on_its_way_to_be_tried_again(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    one.broker.nak(one.receive(5, 1, 2), 0.0)
    one.broker.close_intake(is_empty=True)
    one.now = 50.0
    one.broker.send_due_naks(one.now, Answered())
    one.broker.close_intake(is_empty=True)  # in the same turn: the owner has not taken RetryHere in yet
    one.broker._connection.wake()
    until(lambda: one.broker._connection._leave is None, TIMEOUT, "answer to the request")
    assert not consumer.is_closed


def test_a_closed_intake_with_nothing_here_closes_the_consumer_and_opens_another_later(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    first = one.consumer()
    one.broker.close_intake(is_empty=True)
    assert not first.is_closed
    one.now = GIVE_BACK
    one.broker.close_intake(is_empty=True)
    until(lambda: first.is_closed, TIMEOUT, "closed consumer")
    assert one.broker.connected(), "the node is connected all the same"
    one.broker.allow(1)
    one.consumer(2)


@pytest.mark.parametrize("why", ["a task is here", "a nak is held", "a message is on its way"])
def test_a_consumer_that_something_hangs_on_is_not_closed(one: Setup, why: str) -> None:
    one.connect()
    one.broker.allow(2)
    consumer = one.consumer()
    received = one.receive(1)
    if why == "a nak is held":
        one.broker.nak(received, 100)
    elif why == "a message is on its way":
        consumer.deliver(Message(2))
    one.broker.close_intake(is_empty=why != "a task is here")
    one.now = GIVE_BACK
    one.broker.close_intake(is_empty=why != "a task is here")
    one.broker._connection.wake()
    until(lambda: one.broker._connection._leave is None, TIMEOUT, "answer to the request")
    assert not consumer.is_closed


def test_a_node_that_steps_aside_is_not_given_a_message_until_the_time_is_over(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    first = one.consumer()
    one.broker.step_aside(5.0)
    until(lambda: first.is_closed, TIMEOUT, "closed consumer")
    one.broker.allow(1)
    assert len(one.library.consumers) == 1
    one.now = 5.0
    one.broker.allow(1)
    one.consumer(2)
