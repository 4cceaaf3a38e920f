"""What the adapter does when it connects, cannot connect, or loses a connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from supervisor.broker.connection import LOST_TIME
from supervisor.events import BrokerDown, BrokerUp, Event, Stored
from tests.support.fake_pulsar import AuthorizationError, Consumer
from tests.support.fake_pulsar import Timeout as LibraryTimeout
from tests.support.wait import until
from tests.unit.supervisor.broker.adapter import RECORDS, TASKS, TIMEOUT, WHOLE, Setup

GRANT = "grant it, and the node goes on by itself"


def test_it_connects_with_the_records_first_and_subscribes_when_a_message_may_be_taken(one: Setup) -> None:
    one.connect()
    assert one.broker.connected()
    calls = [call for call in one.library.calls if not str(call[1]).endswith("-claims")]
    assert [name for name, _ in calls] == ["client", "create_producer", "try_to_subscribe", "client"]
    assert not one.library.consumers, "a node that may not take a message must not be given one"
    one.broker.allow(1)
    one.consumer()
    assert ("subscribe", TASKS) in one.library.calls


def test_claims_have_a_client_of_their_own_and_it_is_closed_with_the_other(one: Setup) -> None:
    """What the broker refuses of claims costs the connection; the consumer of the tasks must not be on it."""
    one.connect()
    one.broker.allow(1)
    one.consumer()
    assert [client.topics for client in one.library.clients] == [{WHOLE + RECORDS, TASKS}, {f"{TASKS}-claims"}]
    one.broker.close()
    assert all(client.is_closed for client in one.library.clients)


def test_a_client_for_claims_that_is_stuck_is_made_anew(one: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    one.connect()
    first, second = one.library.clients
    is_stuck = iter([True])
    monkeypatch.setattr(one.broker._claims, "is_stuck", lambda: next(is_stuck, False))
    until(lambda: second.is_closed or None, 60, "the end of the client for claims")
    until(lambda: len(one.library.clients) == 3 or None, 60, "another client")
    assert not first.is_closed


def test_a_connection_that_fails_is_reported_and_tried_again(one: Setup) -> None:
    one.library.failures = [("create_producer", LibraryTimeout("nobody")), ("try_to_subscribe", AuthorizationError())]
    one.broker.start()
    assert one.event() == BrokerDown("Timeout (nobody)")
    assert one.event() == BrokerDown(f"the token has no right to consume from model-m; {GRANT}")
    assert one.event() == BrokerUp()
    assert one.names("client", "close") == ["client", "close"] * 2 + ["client"] * 2


def test_a_subscription_that_fails_connects_anew(one: Setup) -> None:
    one.connect()
    one.library.failures = [("subscribe", LibraryTimeout("no owner"))]
    one.broker.allow(1)
    assert one.event() == BrokerDown("Timeout (no owner)")
    assert one.event() == BrokerUp()
    one.consumer()


def test_closing_before_it_was_connected_ends_the_thread(one: Setup) -> None:
    one.library.failures = [("client", LibraryTimeout())] * 100
    one.broker.start()
    assert isinstance(one.event(), BrokerDown)
    one.broker.close()
    assert not one.broker._connection._thread.is_alive()


def connected_with_a_consumer(one: Setup) -> Consumer:
    one.connect()
    one.broker.allow(2)
    return one.consumer()


def test_a_lost_connection_is_made_anew_once_the_broker_lets_us_in(one: Setup) -> None:
    consumer = connected_with_a_consumer(one)
    one.refusal = "nothing listens"
    consumer.is_up = one.library.producers[0].is_up = False
    until_event(one, BrokerDown("nothing listens"))
    assert len(one.library.clients) == 2, "the library's client was given up while no other could connect"
    one.refusal = ""
    until_event(one, BrokerUp())
    assert [client.is_closed for client in one.library.clients] == [True, True, False, False]
    one.consumer(2)


def test_a_consumer_that_works_is_left_alone_when_the_records_producer_is_lost(one: Setup) -> None:
    """Closing it would have the broker hand out again all that is in work."""
    consumer = connected_with_a_consumer(one)
    one.library.producers[0].is_up = False
    pass_time_until(one, lambda: len(one.library.producers) == 3, "another producer")
    until(one.broker.connected, TIMEOUT, "connection")
    assert not consumer.is_closed
    assert len(one.library.clients) == 2
    one.broker.publish_record(3, b"{}")
    assert one.event() == Stored(3, "")
    assert one.library.producers[-1].sent == [b"{}"]


def test_records_that_are_refused_leave_the_consumer_alone_and_are_reported(one: Setup) -> None:
    consumer = connected_with_a_consumer(one)
    one.library.producers[0].is_up = False
    one.library.failures = [("create_producer", AuthorizationError("no right"))]
    pass_time_until(one, lambda: not one.events.empty(), "report")
    assert one.event() == BrokerDown(f"the token has no right to produce to {RECORDS} (RES_TOPIC_NAME); {GRANT}")
    assert not consumer.is_closed
    pass_time_until(one, lambda: len(one.library.producers) == 2, "another producer")


def test_a_consumer_that_is_lost_alone_is_made_anew(one: Setup) -> None:
    consumer = connected_with_a_consumer(one)
    consumer.is_up = False
    pass_time_until(one, lambda: len(one.library.consumers) == 2, "another consumer")
    assert consumer.is_closed
    assert len(one.library.clients) == 2


def test_a_connection_that_the_library_mends_itself_is_left_alone(one: Setup) -> None:
    consumer = connected_with_a_consumer(one)
    one.library.producers[0].is_up = consumer.is_up = False
    until(lambda: not one.broker.connected(), TIMEOUT, "loss")
    one.library.producers[0].is_up = consumer.is_up = True
    one.now += 100 * LOST_TIME
    one.receive(1)
    assert len(one.library.clients) == 2
    assert len(one.library.consumers) == 1


def test_a_message_that_comes_after_a_lost_connection_was_not_asked_for_in_vain(one: Setup) -> None:
    """It may have waited at the broker meanwhile, and its age shows nothing of its publisher's clock."""
    consumer = connected_with_a_consumer(one)
    one.library.producers[0].is_up = consumer.is_up = False
    until(lambda: not one.broker._intake._is_connected, TIMEOUT, "loss")
    one.broker.allow(2)
    one.now += LOST_TIME / 2
    assert one.receive(1).asked_for == 0.0
    one.library.producers[0].is_up = consumer.is_up = True
    until(lambda: one.broker._intake._is_connected, TIMEOUT, "connection")
    one.broker.allow(2)
    one.now += LOST_TIME / 2
    assert one.receive(2).asked_for == LOST_TIME / 2


def pass_time_until(one: Setup, condition: Callable[[], object], what: str) -> None:
    """Let the clock run until the broker's thread has done something."""

    def reached() -> object:
        one.now += 1.0
        return condition()

    until(reached, TIMEOUT, what)


def until_event(one: Setup, wanted: Event) -> None:
    """Let the clock run until an event comes; others before it do not matter."""
    seen: list[Event] = []

    def came() -> bool:
        one.now += 1.0
        while not one.events.empty():
            seen.append(one.events.get())
        return wanted in seen

    until(came, TIMEOUT, str(wanted))
