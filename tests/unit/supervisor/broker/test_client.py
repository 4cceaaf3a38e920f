"""The adapter to Pulsar, on a fake of the library."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

import pytest

from supervisor.broker import connection
from supervisor.broker.client import PulsarBroker
from supervisor.broker.connection import LOST_TIME, Connection
from supervisor.broker.intake import GIVE_BACK
from supervisor.events import BrokerDown, BrokerUp, ClaimsOpened, Event, MessageKey, Received, RetryHere, Stored
from supervisor.ledger import Ledger
from tests.support.fake_pulsar import AuthorizationError, Consumer, Library, Message, PulsarException, Result
from tests.support.fake_pulsar import Timeout as LibraryTimeout
from tests.support.wait import until
from workernode.settings import load

TIMEOUT = 20
WHOLE = "persistent://public/default/"
TASKS, RECORDS = f"{WHOLE}model-m", "bills"
VARIABLES = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "m",
    "API_URL": "http://127.0.0.1:9/v1",
    "API_KEY": "sk-1",
    "PULSAR_URL": "pulsar://127.0.0.1:1",
    "RES_TOPIC_NAME": RECORDS,
    "MAX_PROCESS_NUM": "8",
}
SETTINGS = load(VARIABLES)
GRANT = "grant it, and the node goes on by itself"


class Setup:
    """The adapter, the fake library below it, and the events that it posts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.refusal = ""  # why the broker lets nobody in
        self.library = Library()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.broker = PulsarBroker(SETTINGS, self.events.put, self.library, lambda: self.now)

    def event(self) -> Event:
        """The next event that is not about claims (test_claims_topic.py)."""
        event = self.events.get(timeout=TIMEOUT)
        return self.event() if isinstance(event, ClaimsOpened) else event

    def connect(self) -> None:
        self.broker.start()
        assert self.event() == BrokerUp()

    def consumer(self, number: int = 1) -> Consumer:
        """The consumer that is made so-and-so-manieth."""
        until(lambda: len(self.library.consumers) >= number, TIMEOUT, "consumer")
        until(lambda: self.broker._connection.consumer is not None, TIMEOUT, "consumer in use")
        return self.library.consumers[number - 1]

    def receive(self, entry: int, index: int = -1, size: int = 0) -> Received:
        self.library.consumers[-1].deliver(Message(entry, index, size))
        received = self.event()
        assert isinstance(received, Received)
        self.broker.seen(received)
        return received

    def names(self, *wanted: str) -> list[str]:
        return [name for name, _ in self.library.calls if name in wanted]


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """An adapter that asks no broker why it is not let in, and tries again at once."""
    monkeypatch.setattr(connection, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(connection, "CHECK_INTERVAL", 0.001)
    setup = Setup()
    monkeypatch.setattr(Connection, "_refusal", lambda self: setup.refusal)
    yield setup
    setup.broker.close()


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


class Answered(Ledger):
    """A ledger of which every batch was answered in part."""

    def has_answered_of_batch(self, key: MessageKey) -> bool:
        return True


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


@pytest.mark.parametrize(
    ("result", "fault"),
    [(Result.Ok, ""), (Result.Timeout, "Timeout"), (PulsarException("full"), "PulsarException (full)")],
    ids=["stored", "late", "refused"],
)
def test_what_became_of_a_record_is_reported(one: Setup, result: object, fault: str) -> None:
    one.connect()
    one.library.results.append(result)
    one.broker.publish_record(7, b"{}")
    assert one.event() == Stored(7, fault)


def test_without_a_connection_a_record_is_reported_as_not_stored(one: Setup) -> None:
    one.broker.publish_record(7, b"{}")
    assert one.event() == Stored(7, "not connected")


def test_the_dead_letter_topic_gets_a_subscription_and_its_letters(one: Setup) -> None:
    one.connect()
    one.broker.dead_letter(1, b"bad", {"reason": "why"})
    one.broker.dead_letter(2, b"worse", {"reason": "why"})
    assert {one.event(), one.event()} == {Stored(1, "", True), Stored(2, "", True)}
    letters = f"{WHOLE}model-m-model-m-subscription-DLQ"
    assert ("try_to_subscribe", letters) in one.library.calls
    assert [producer.sent for producer in one.library.producers if producer.topic == letters] == [[b"bad", b"worse"]]


def test_a_dead_letter_that_cannot_leave_is_reported_and_the_next_try_makes_another_producer(one: Setup) -> None:
    one.connect()
    one.library.failures = [("create_producer", AuthorizationError("no"))]
    one.broker.dead_letter(1, b"bad", {})
    assert one.event() == Stored(1, "AuthorizationError (no)", True)
    one.broker.dead_letter(1, b"bad", {})
    assert one.event() == Stored(1, "", True)


@pytest.mark.parametrize(("refusals", "kept"), [(1, 1024 * 1024), (2, 64 * 1024), (3, 0)])
def test_a_dead_letter_that_is_too_large_for_the_broker_is_cut(one: Setup, refusals: int, kept: int) -> None:
    one.connect()
    one.library.results = [Result.MessageTooBig] * refusals
    one.broker.dead_letter(1, b"x" * 8_000_000, {"reason": "why"})
    assert one.event() == Stored(1, "", True)
    producer = one.library.producers[-1]
    assert len(producer.sent[-1]) == kept
    assert producer.properties[-1] == {"reason": "why", "cut": "only the first bytes of 8000000"}


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
