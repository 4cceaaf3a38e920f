"""The topic of claims on a fake client library: how it is opened, written and read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.broker import claims_topic
from supervisor.broker.claims_topic import STUCK_TIME, ClaimsTopic
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Event
from tests.support.fake_pulsar import (
    AuthorizationError,
    Client,
    ConsumerBusy,
    IncompatibleSchema,
    Library,
    NotAllowedError,
    ProducerBlockedQuotaExceededError,
    ProducerBlockedQuotaExceededException,
    ProducerBusy,
    Result,
    Timeout,
    TopicNotFound,
    TopicTerminated,
)
from tests.support.wait import until

NAME = "persistent://public/default/model-m-claims"
WALL, KEEP = 1e9, 600.0


class Reader:
    """Reads what the test gives it."""

    def __init__(self, messages: queue.Queue[bytes]) -> None:
        self._messages = messages
        self.sought: list[int] = []

    def seek(self, milliseconds: int) -> None:
        """Note from where it reads."""
        self.sought.append(milliseconds)

    def read_next(self, _milliseconds: int) -> Any:
        """Return the next message."""
        try:
            data = self._messages.get(timeout=0.01)
        except queue.Empty:
            raise Timeout from None
        return SimpleNamespace(data=lambda: data)

    def close(self) -> None:
        """Read no more."""


def is_up() -> bool:
    """The node's other connection stands."""
    return True


class ReadingClient(Client):
    """A client with readers."""

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        self.messages: queue.Queue[bytes] = queue.Queue()
        self.readers: list[Reader] = []

    def create_reader(self, topic: str, _start: object, **_how: Any) -> Reader:
        """Return a reader."""
        self._library.called("create_reader", topic)
        self.readers.append(Reader(self.messages))
        return self.readers[-1]


class Topic:
    """A topic of claims, and what it posts."""

    def __init__(self) -> None:
        self.library = Library()
        self.library.MessageId = SimpleNamespace(earliest="earliest")  # type: ignore[attr-defined]
        self.client = ReadingClient(self.library)
        self.wall, self.now = WALL, 100.0
        self.posted: queue.Queue[Event] = queue.Queue()
        self.topic = ClaimsTopic(self.library, NAME, KEEP, self.posted.put, lambda: self.wall, lambda: self.now)

    def next(self) -> Event:
        """Return what is posted next."""
        return self.posted.get(timeout=60)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[Topic]:
    monkeypatch.setattr(claims_topic, "REOPEN", 0.01)
    topic = Topic()
    yield topic
    topic.topic.close()


def test_topic_and_subscription_are_there_before_the_producer(claims: Topic) -> None:
    claims.topic.open(claims.client, is_up)
    assert claims.next() == ClaimsOpened()
    assert claims.library.calls[:2] == [("try_to_subscribe", NAME), ("create_producer", NAME)]


def test_of_a_partitioned_topic_the_first_partition_is_used(claims: Topic) -> None:
    claims.library.partitions = 4
    claims.topic.open(claims.client, is_up)
    assert [topic for _, topic in claims.library.calls] == [f"{NAME}-partition-0"] * 2


@pytest.mark.parametrize("error", [AuthorizationError("no"), TopicNotFound("no")])
@pytest.mark.parametrize("method", ["try_to_subscribe", "create_producer"])
def test_a_missing_right_or_topic_is_a_refusal(claims: Topic, method: str, error: Exception) -> None:
    claims.library.failures.append((method, error))
    claims.topic.open(claims.client, is_up)
    opened = claims.next()
    assert isinstance(opened, ClaimsOpened)
    assert opened.is_refused
    assert opened.fault


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("create_producer", TopicTerminated("ended")),
        ("create_producer", ProducerBlockedQuotaExceededError("held")),
        ("create_producer", ProducerBlockedQuotaExceededException("full")),
        ("create_producer", ProducerBusy("limit")),
        ("create_producer", IncompatibleSchema("schema")),
        ("create_producer", NotAllowedError("topics")),
        ("try_to_subscribe", NotAllowedError("subscriptions")),
        ("try_to_subscribe", ConsumerBusy("limit")),
    ],
)
def test_streams_do_not_wait_for_a_topic_that_takes_nothing_more(claims: Topic, method: str, error: Exception) -> None:
    """Once they waited until their time was over, and then for ever: their clients got no end."""
    claims.library.failures.append((method, error))
    claims.topic.open(claims.client, is_up)
    opened = claims.next()
    assert isinstance(opened, ClaimsOpened)
    assert opened.is_refused
    assert claims.next() == ClaimsOpened(), "it was not tried again"


def test_the_subscription_of_a_topic_that_was_terminated_and_deleted_is_made_anew(claims: Topic) -> None:
    """Without it the broker deletes what is stored there."""
    claims.library.failures.append(("create_producer", TopicTerminated("ended")))
    claims.topic.open(claims.client, is_up)
    assert claims.next() != ClaimsOpened()
    assert claims.next() == ClaimsOpened()
    assert claims.library.calls == [("try_to_subscribe", NAME), ("create_producer", NAME)] * 2


def test_streams_do_not_wait_for_ever_for_a_topic_that_a_broker_which_answers_does_not_open(
    claims: Topic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy of the namespace does that, and gives no reason."""
    monkeypatch.setattr(claims_topic, "UNOPENED_TIME", 0.05)
    claims.library.failures += [("create_producer", Timeout("slow"))] * 50
    claims.topic.open(claims.client, is_up)
    opened = [claims.next()]
    while not opened[-1].is_refused:
        opened.append(claims.next())
    assert len(opened) > 1, "a broker that is being restarted is waited for"
    assert [record.__dict__["event"] for record in caplog.records] == ["claims_unopened"]
    until(lambda: claims.next() == ClaimsOpened(), 60, "it is opened in the end")


def test_streams_wait_for_a_topic_for_as_long_as_the_broker_does_not_answer(
    claims: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This node may be cut off: others may have taken its streams over."""
    monkeypatch.setattr(claims_topic, "UNOPENED_TIME", 0.0)
    claims.library.failures += [("create_producer", Timeout("slow"))] * 50
    claims.topic.open(claims.client, lambda: False)
    assert [claims.next().is_refused for _ in range(3)] == [False] * 3



def test_any_other_fault_is_tried_again(claims: Topic) -> None:
    claims.library.failures.append(("create_producer", Timeout()))
    claims.topic.open(claims.client, is_up)
    first, second = claims.next(), claims.next()
    assert isinstance(first, ClaimsOpened)
    assert (bool(first.fault), first.is_refused) == (True, False)
    assert second == ClaimsOpened()


def test_a_message_is_stored_or_reported_with_the_librarys_word(claims: Topic) -> None:
    claims.library.results = [Result.Ok, Result.Timeout, Timeout()]
    claims.topic.open(claims.client, is_up)
    claims.next()
    for number in (1, 2, 3):
        claims.topic.publish(number, b"x")
    stored = [claims.next() for _ in range(3)]
    assert stored[0] == ClaimsStored(1, "")
    assert all(isinstance(each, ClaimsStored) and each.fault for each in stored[1:])


def test_a_message_without_a_connection_is_reported_at_once(claims: Topic) -> None:
    claims.topic.publish(1, b"x")
    assert claims.next() == ClaimsStored(1, "not connected")


def test_a_reader_begins_with_the_claims_that_still_matter(claims: Topic) -> None:
    claims.topic.open(claims.client, is_up)
    claims.next()
    claims.client.messages.put(b"first")
    claims.topic.read(KEEP, KEEP)
    assert [claims.next(), claims.next()] == [ClaimsRead(b"", is_start=True), ClaimsRead(b"first")]
    assert claims.client.readers[0].sought == [int((WALL - KEEP) * 1000)]


@pytest.mark.parametrize(
    ("passed", "jump", "since"),
    [
        (KEEP - 1.0, 0.0, WALL - 2 * KEEP),
        (KEEP - 1.0, 10 * KEEP, WALL + 8 * KEEP),
        (KEEP + 1.0, 0.0, WALL + 1.0),
        (KEEP + 1.0, -10 * KEEP, WALL + 1.0 - 10 * KEEP),
    ],
)
def test_a_reader_that_is_made_anew_begins_as_early_as_it_was_asked_to_while_that_is_remembered(
    claims: Topic, passed: float, jump: float, since: float
) -> None:
    """Also if the machine's clock has jumped meanwhile."""
    claims.topic.open(claims.client, is_up)
    claims.next()
    claims.topic.read(2 * KEEP, KEEP)
    assert claims.next() == ClaimsRead(b"", is_start=True)
    assert claims.client.readers[0].sought == [int((WALL - 2 * KEEP) * 1000)]
    claims.now += passed
    claims.wall += passed + jump
    client = ReadingClient(claims.library)
    claims.topic.open(client, is_up)
    assert [claims.next(), claims.next()] == [ClaimsOpened(), ClaimsRead(b"", is_start=True)]
    assert client.readers[0].sought == [int(since * 1000)]


def test_a_reader_that_fails_is_opened_again_and_begins_anew(claims: Topic) -> None:
    claims.topic.open(claims.client, is_up)
    claims.next()
    claims.library.failures.append(("create_reader", Timeout()))
    claims.topic.read(KEEP, KEEP)
    assert claims.next() == ClaimsRead(b"", is_start=True)


def test_a_reader_that_the_nodes_stop_closes_is_not_logged_as_a_fault(
    claims: Topic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims.topic.open(claims.client, is_up)
    claims.next()
    readers: list[threading.Thread] = []

    def closed(*_: Any, **__: Any) -> Reader:
        readers.append(threading.current_thread())
        claims.topic.close()
        raise Timeout

    monkeypatch.setattr(claims.client, "create_reader", closed)
    claims.topic.read(KEEP, KEEP)
    until(lambda: bool(readers), 60, "a reader")
    readers[0].join(60)
    assert not caplog.records


def test_with_a_new_client_everything_is_read_again(claims: Topic) -> None:
    claims.topic.open(claims.client, is_up)
    claims.next()
    claims.topic.read(KEEP, KEEP)
    assert claims.next() == ClaimsRead(b"", is_start=True)
    claims.topic.open(ReadingClient(claims.library), is_up)
    assert claims.next() == ClaimsOpened()
    assert claims.next() == ClaimsRead(b"", is_start=True)


def test_a_client_is_closed_when_there_is_another_and_when_the_node_stops(claims: Topic) -> None:
    second, late = ReadingClient(claims.library), ReadingClient(claims.library)
    claims.topic.open(claims.client, is_up)
    claims.topic.open(second, is_up)
    assert (claims.client.is_closed, second.is_closed) == (True, False)
    claims.topic.close()
    assert second.is_closed
    claims.topic.open(late, is_up)
    assert late.is_closed, "the thread that connects may be late"


def test_a_topic_that_cannot_be_opened_does_not_keep_the_node_from_its_tasks(
    claims: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some calls of the library have no time limit. The node looks its messages up once the topic is open."""
    monkeypatch.setattr(claims_topic, "OPEN_TIME", 0.01)
    goes_on = threading.Event()
    subscribe = claims.client.subscribe
    monkeypatch.setattr(claims.client, "subscribe", lambda *args, **how: goes_on.wait(60) and subscribe(*args, **how))
    claims.topic.open(claims.client, is_up)
    assert claims.next() == ClaimsOpened("Timeout")
    goes_on.set()
    assert claims.next() == ClaimsOpened()


def test_what_a_client_reports_that_was_replaced_does_not_count(claims: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    is_closed = threading.Event()

    def hangs(*_: Any, **__: Any) -> Any:
        is_closed.wait(60)
        raise AuthorizationError("an old token")

    monkeypatch.setattr(claims_topic, "OPEN_TIME", 0.01)
    monkeypatch.setattr(claims.client, "subscribe", hangs)
    monkeypatch.setattr(claims.client, "close", is_closed.set)
    claims.topic.open(claims.client, is_up)
    assert claims.next() == ClaimsOpened("Timeout")
    monkeypatch.setattr(claims_topic, "OPEN_TIME", 60.0)
    claims.topic.open(ReadingClient(claims.library), is_up)
    assert claims.next() == ClaimsOpened()


def stuck(claims: Topic, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have a call of the first client never come back, not even when it is closed. Set the event at the end."""
    ends = threading.Event()

    def hangs(*_: Any, **__: Any) -> Any:
        ends.wait(60)
        raise Timeout

    monkeypatch.setattr(claims_topic, "OPEN_TIME", 0.01)
    monkeypatch.setattr(claims.client, "subscribe", hangs)
    claims.topic.open(claims.client, is_up)
    assert claims.next() == ClaimsOpened("Timeout")
    return ends


@pytest.mark.parametrize("method", ["open", "replace"])
def test_a_call_that_never_comes_back_does_not_keep_the_next_client_from_opening_the_topic(
    claims: Topic, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A node that was connected again published no claim for five minutes: its streams waited until their time was
    over, and another node took its tasks over.
    """
    ends = stuck(claims, monkeypatch)
    monkeypatch.setattr(claims_topic, "OPEN_TIME", 60.0)
    getattr(claims.topic, method)(ReadingClient(claims.library), is_up)
    assert claims.next() == ClaimsOpened()
    ends.set()


def test_a_client_that_does_not_come_back_from_a_call_is_stuck(claims: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not claims.topic.is_stuck()
    ends = stuck(claims, monkeypatch)
    claims.now += STUCK_TIME - 1.0
    assert not claims.topic.is_stuck()
    claims.now += 1.0
    assert claims.topic.is_stuck()
    claims.topic.replace(ReadingClient(claims.library), is_up)
    assert claims.next() == ClaimsOpened()
    claims.now += 10 * STUCK_TIME
    until(lambda: not claims.topic.is_stuck() or None, 60, "the thread of the new client")
    ends.set()
