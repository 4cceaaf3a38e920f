"""What the adapter to Pulsar takes in, acks and gives back, and when."""

from __future__ import annotations

from supervisor.broker.intake import GIVE_BACK
from supervisor.events import MessageKey, Received, RetryHere
from supervisor.ledger import Ledger
from tests.support.fake_pulsar import Message
from tests.unit.supervisor.broker.adapter import Answered, Setup


def test_nothing_is_taken_beyond_what_is_allowed(one: Setup) -> None:
    one.connect()
    one.broker.allow(2)
    consumer = one.consumer()
    one.receive(1)
    one.receive(2)
    assert consumer.permits == 0
    one.broker.allow(1)
    assert consumer.permits == 1


def test_held_naks_close_the_intake_when_there_are_as_many_as_the_highest_cap(one: Setup) -> None:
    """They are not acked either: without a limit, a failing upstream would fill the node with the model's queue."""
    one.connect()
    one.broker.allow(9)
    consumer = one.consumer()
    for entry in range(8):
        one.broker.nak(one.receive(entry), 600)
    one.broker.allow(1)
    consumer.deliver(Message(99))
    assert one.events.empty()
    one.now = 601
    one.broker.send_due_naks(one.now, Ledger())
    assert 99 in consumer.naked, "it has waited for too long"
    one.broker.allow(1)
    consumer.deliver(Message(100))
    assert isinstance(one.event(), Received)


def test_an_ack_names_the_message_and_one_on_a_closed_consumer_does_no_harm(one: Setup) -> None:
    one.connect()
    one.broker.allow(2)
    consumer = one.consumer()
    one.broker.ack(one.receive(5, index=1, size=2))
    assert consumer.acked == [5]
    received = one.receive(6)
    consumer.is_closed = True
    one.broker.ack(received)


def test_a_nak_reaches_the_broker_when_it_is_due(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    one.broker.nak(one.receive(5), 2.0)
    assert (one.broker.held_naks, one.broker.next_due_nak()) == (1, 2.0)
    one.broker.send_due_naks(1.9, Ledger())
    assert consumer.naked == []
    one.broker.send_due_naks(2.0, Ledger())
    assert consumer.naked == [5]


def test_a_message_that_comes_to_a_closed_intake_goes_back(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    one.broker.close_intake(is_empty=False)
    consumer.deliver(Message(5))
    one.now = GIVE_BACK
    assert one.broker.next_due_nak() == GIVE_BACK
    one.broker.send_due_naks(one.now, Ledger())
    assert consumer.naked == [5]
    assert one.events.empty()


def test_of_a_batch_that_waits_in_part_nothing_goes_back(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    first = one.receive(5, 0, 2)
    consumer.deliver(Message(5, 1, 2))  # no room
    one.broker.nak(first, 0.0)
    one.now = 10.0
    one.broker.send_due_naks(one.now, Ledger())
    assert consumer.naked == [], "its other message waits for room at this node"
    one.broker.allow(1)
    second = one.event()
    assert isinstance(second, Received)
    one.broker.seen(second)
    one.broker.nak(second, 0.0)
    one.now = 20.0
    one.broker.send_due_naks(one.now, Ledger())
    assert consumer.naked == [5, 5]


class Known(Ledger):
    """A ledger that knows every message."""

    def is_known(self, key: MessageKey) -> bool:
        return True


def test_a_message_that_is_redelivered_to_a_full_node_which_works_on_it_is_not_given_to_another(one: Setup) -> None:
    """The broker redelivers after a lost connection. The owner drops it; one ack covers both deliveries."""
    one.connect()
    one.broker.allow(2)
    consumer = one.consumer()
    for entry in (5, 6):
        one.receive(entry)
    one.broker.allow(0)
    consumer.reconnect()
    consumer.deliver(Message(5))
    one.broker._intake.reconnected()
    consumer.run()
    one.now = 10 * GIVE_BACK
    one.broker.allow(0)
    one.broker.send_due_naks(one.now, Known())
    again = one.event()
    assert isinstance(again, Received)
    one.broker.seen(again)
    one.now += 10.0
    one.broker.send_due_naks(one.now, Known())
    assert consumer.naked == []
    one.broker.allow(1)
    one.receive(7)


def test_the_nak_of_a_message_that_was_redelivered_meanwhile_and_waits_here_is_dropped(one: Setup) -> None:
    """It would be handed to another node, and what waits here could be served as well."""
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    one.broker.nak(one.receive(5), 1.0)
    one.broker.close_intake(is_empty=False)
    consumer.reconnect()
    consumer.deliver(Message(5))
    one.now = 0.9
    one.broker._intake.reconnected()
    consumer.run()
    one.now = 1.1
    one.broker.send_due_naks(one.now, Ledger())
    assert (consumer.naked, one.broker.held_naks) == ([], 0)
    one.now = 0.9 + GIVE_BACK  # it goes back as any other that waits here
    one.broker.send_due_naks(one.now, Ledger())
    assert consumer.naked == [5]


def test_of_a_batch_that_was_answered_in_part_the_rest_is_tried_again_here(one: Setup) -> None:
    one.connect()
    one.broker.allow(1)
    consumer = one.consumer()
    received = one.receive(5, 1, 2)
    one.broker.nak(received, 0.0)
    one.broker.send_due_naks(50.0, Answered())
    assert one.event() == RetryHere(received)
    assert consumer.naked == []


def test_held_naks_of_a_batch_do_not_keep_back_its_last_message_at_a_full_node(one: Setup) -> None:
    """They wait for it before they go back, so that it would wait for them for ever."""
    one.connect()
    one.broker.allow(8)
    consumer = one.consumer()
    for index in range(8):
        one.broker.nak(one.receive(5, index, 9), 0.0)
    one.broker.allow(0)
    consumer.deliver(Message(5, 8, 9))
    assert one.events.empty()
    one.broker.allow(1)
    assert isinstance(one.event(), Received)
