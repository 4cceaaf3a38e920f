"""What the simulation assumes of the producer of claims when its connection is lost: one script, run against a real
Pulsar behind a link that can be cut, and against the simulated one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import pulsar
import pytest

from devstack.broker import Broker
from supervisor.events import ClaimsStored
from tests.simulation import claims_topic
from tests.simulation.claims_topic import SimClaimsTopic
from tests.simulation.library import Link
from tests.simulation.pulsar import Server
from tests.simulation.sides import TIMEOUT, open_client
from tests.simulation.world import World
from tests.support.pulsar_link import RECEIPT, SEND, PulsarLink
from tests.support.wait import until, until_equal


class Producing(Protocol):
    """A producer behind a link, and the topic that it sends to."""

    results: dict[str, str]  # what became of each message: "" if the broker has it, or why not

    def open(self, gives_up_soon: bool = False) -> None:
        """Make the producer.

        Args:
            gives_up_soon: a message whose receipt does not come soon is given up, rather than after half a minute.
        """

    def send(self, text: str) -> None:
        """Send without waiting."""

    def expect(self, text: str, result: str) -> None:
        """Wait for what becomes of a message."""

    def expect_stored(self, *texts: str) -> None:
        """Wait until exactly this stands in the topic."""

    def lose_receipts(self, *texts: str) -> None:
        """Send; the broker stores, and its receipts do not arrive."""

    def delay(self, text: str) -> None:
        """Send; the message does not arrive until `release`."""

    def release(self) -> None:
        """What was delayed arrives."""

    def cut(self) -> None:
        """The connection is lost."""

    def mend(self) -> None:
        """It is made again."""

    def make_anew(self) -> None:
        """Close the producer, and make another one when that is possible."""


class RealProducing:
    """A real Pulsar, and a link to it."""

    def __init__(self, broker: Broker) -> None:
        self.results = {}
        self._link = PulsarLink(broker.port)
        self._client, self._near = open_client(self._link.url), open_client(broker.url)
        self._topic = f"assumptions-{uuid.uuid4().hex[:8]}"
        self._reader = self._near.create_reader(self._topic, pulsar.MessageId.earliest)
        self._stored: list[str] = []

    results: dict[str, str]

    def open(self, gives_up_soon: bool = False) -> None:
        timeout = 1000 if gives_up_soon else 120_000
        self._producer = self._client.create_producer(
            self._topic, send_timeout_millis=timeout, block_if_queue_full=False, batching_enabled=False
        )

    def send(self, text: str) -> None:
        def done(result: Any, _id: object) -> None:
            self.results[text] = "" if result == pulsar.Result.Ok else str(result).removeprefix("Result.")

        self._producer.send_async(text.encode(), done)

    def expect(self, text: str, result: str) -> None:
        until(lambda: self.results.get(text) == result, TIMEOUT, f"{result or 'Ok'} for {text}")

    def expect_stored(self, *texts: str) -> None:
        def read() -> list[str]:
            while self._reader.has_message_available():
                self._stored.append(self._reader.read_next(1000).data().decode())
            return self._stored

        until_equal(read, list(texts), TIMEOUT, "messages in the topic")

    def lose_receipts(self, *texts: str) -> None:
        self._link.lose(RECEIPT)
        for number, text in enumerate(texts, 1):
            self.send(text)
            self._link.wait_lost(number)
        self._link.lose(0)

    def delay(self, text: str) -> None:
        self._link.hold(SEND)
        self.send(text)
        self._link.wait_held(1)

    def release(self) -> None:
        self._link.release()

    def cut(self) -> None:
        self._link.cut(half=True)
        until(lambda: not self._producer.is_connected(), TIMEOUT, "loss of the connection")

    def mend(self) -> None:
        self._link.mend()
        until(self._producer.is_connected, TIMEOUT, "new connection")

    def make_anew(self) -> None:
        self._producer.close()
        self._link.mend()
        self.open()

    def close(self) -> None:
        self._client.close()
        self._near.close()
        self._link.close()


class SimProducing:
    """The same on the simulated topic of claims."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results = {}
        self._monkeypatch = monkeypatch
        self._world = World(1)
        self._server = Server(self._world, index_acks=True)
        self._link = Link(self._world, self._server)
        self._link.has_producer = True
        self._texts: dict[int, str] = {}
        self._claims = SimClaimsTopic(self._world, self._link, self._server.claims, self._post)

    results: dict[str, str]

    def _post(self, event: object) -> None:
        if isinstance(event, ClaimsStored):
            self.results[self._texts[event.number]] = event.fault

    def open(self, gives_up_soon: bool = False) -> None:
        if gives_up_soon:
            self._monkeypatch.setattr(claims_topic, "SEND_TIMEOUT", 1.0)
        self._claims.open()

    def send(self, text: str) -> None:
        number = len(self._texts) + 1
        self._texts[number] = text
        self._claims.publish(number, text.encode())

    def expect(self, text: str, result: str) -> None:
        self._world.run(self._world.now + TIMEOUT, lambda: self.results.get(text) == result)
        assert self.results.get(text) == result

    def expect_stored(self, *texts: str) -> None:
        wanted = [text.encode() for text in texts]
        self._world.run(self._world.now + TIMEOUT, lambda: self._server.claims.messages == wanted)
        assert self._server.claims.messages == wanted

    def lose_receipts(self, *texts: str) -> None:
        log = self._server.claims
        log.receipts_late_until = self._world.now + TIMEOUT
        for text in texts:
            self.send(text)
        self._world.run(self._world.now + 1.0)
        log.receipts_late_until = 0.0

    def delay(self, text: str) -> None:
        self._server.claims.stores_late_until = self._world.now + 1.5 * claims_topic.SEND_TIMEOUT
        self.send(text)

    def release(self) -> None:
        self._world.run(self._world.now + 1.5 * claims_topic.SEND_TIMEOUT)

    def cut(self) -> None:
        self._server.claims.stores_late_until = 0.0
        self._link.is_cut = True
        self._claims.lost()

    def mend(self) -> None:
        self._link.is_cut = False
        self._claims.back()

    def make_anew(self) -> None:
        self._world.run(self._world.now + claims_topic.MADE_ANEW[1])
        self._link.is_cut = False
        self._world.run(self._world.now + claims_topic.REOPENS[1])

    def close(self) -> None:
        pass


@pytest.fixture(params=["real", "simulated"])
def producing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producing]:
    monkeypatch.setattr(claims_topic, "COMES_LATE", 1.0)  # what may happen does, and later than the rest
    monkeypatch.setattr(claims_topic, "LATE", (3.0, 3.0))
    is_real = request.param == "real"
    one = RealProducing(request.getfixturevalue("broker")) if is_real else SimProducing(monkeypatch)
    yield one
    one.close()


def test_what_was_stored_and_whose_receipt_was_lost_is_stored_twice_in_its_order(producing: Producing) -> None:
    producing.open()
    producing.lose_receipts("a", "b")
    producing.cut()
    producing.mend()
    producing.expect("a", "")
    producing.expect("b", "")
    producing.expect_stored("a", "b", "a", "b")


def test_what_is_sent_without_a_connection_is_stored_once_in_its_order(producing: Producing) -> None:
    producing.open()
    producing.cut()
    producing.send("a")
    producing.send("b")
    producing.mend()
    producing.expect("b", "")
    producing.expect_stored("a", "b")


def test_what_was_given_up_without_a_connection_is_not_stored_later(producing: Producing) -> None:
    producing.open(gives_up_soon=True)
    producing.cut()
    producing.send("a")
    producing.send("b")
    producing.expect("a", "Timeout")
    producing.expect("b", "Timeout")
    producing.mend()
    producing.send("c")
    producing.expect_stored("c")


def test_what_was_given_up_on_its_way_is_stored_all_the_same_before_what_follows(producing: Producing) -> None:
    producing.open(gives_up_soon=True)
    producing.delay("a")
    producing.expect("a", "Timeout")
    producing.send("b")
    producing.release()
    producing.expect_stored("a", "b")


def test_what_was_on_its_way_as_the_connection_was_lost_is_not_stored_after_what_follows(producing: Producing) -> None:
    producing.open()
    producing.delay("a")
    producing.cut()
    producing.mend()
    producing.expect("a", "")
    producing.send("b")
    producing.expect("b", "")
    producing.release()
    producing.send("c")
    producing.expect("c", "")
    producing.expect_stored("a", "b", "c")


def test_what_was_on_its_way_as_its_producer_was_closed_may_be_stored_after_what_the_next_one_stores(
    producing: Producing,
) -> None:
    producing.open()
    producing.delay("a")
    producing.cut()
    producing.make_anew()
    producing.expect("a", "AlreadyClosed")
    producing.send("b")
    producing.expect("b", "")
    producing.release()
    producing.expect_stored("b", "a")
