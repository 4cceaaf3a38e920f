"""The topic of claims on a real broker: from which moment on it is read."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Iterator

import pulsar
import pytest

from devstack.broker import Broker
from supervisor.broker.claims_topic import ClaimsTopic
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Event
from tests.support.wait import until

START = ClaimsRead(b"", is_start=True)


class Topic:
    """A topic of claims, and what it posts."""

    def __init__(self, broker: Broker) -> None:
        self._posted: queue.Queue[Event] = queue.Queue()
        self.topic = ClaimsTopic(pulsar, f"claims-{uuid.uuid4().hex[:8]}", 600.0, self._posted.put)
        self.topic.open(pulsar.Client(broker.url), lambda: True)
        assert self.next() == ClaimsOpened()

    def next(self) -> Event:
        """Return what is posted next."""
        return self._posted.get(timeout=60)

    def publish(self, number: int, message: bytes) -> float:
        """Store a message. Returns a moment that lies certainly after it (seconds since the epoch)."""
        self.topic.publish(number, message)
        assert self.next() == ClaimsStored(number, "")
        stored = time.time()
        until(lambda: time.time() > stored + 0.05, 60, "a moment after it")
        return stored + 0.02


@pytest.fixture
def claims(broker: Broker) -> Iterator[Topic]:
    one = Topic(broker)
    yield one
    one.topic.close()


def test_claims_are_read_from_the_moment_on_that_was_asked_for(claims: Topic) -> None:
    moment = claims.publish(1, b"early")
    claims.publish(2, b"late")
    claims.topic.read(time.time() - moment, 600.0)
    assert [claims.next(), claims.next()] == [START, ClaimsRead(b"late")]
    claims.topic.read(60.0, 600.0)
    assert [claims.next() for _ in range(3)] == [START, ClaimsRead(b"early"), ClaimsRead(b"late")]


def test_what_is_published_while_it_is_read_follows(claims: Topic) -> None:
    claims.topic.read(60.0, 600.0)
    assert claims.next() == START
    claims.topic.publish(1, b"new")
    assert {claims.next(), claims.next()} == {ClaimsStored(1, ""), ClaimsRead(b"new")}
