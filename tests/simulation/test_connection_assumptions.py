"""What the simulation assumes of consumers when a connection is lost: one script, run against a real Pulsar behind a
link that can be cut, and against the simulated one. Consumer A is behind the link, B is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from devstack.broker import Broker
from tests.simulation.sides import TIMEOUT, RealSide, Side, SimSide, open_client
from tests.support.pulsar_link import ACK, PulsarLink
from tests.support.wait import until


class CutSide(Side, Protocol):
    """Two consumers, one of which may lose its connection."""

    def ack_in_vain(self, payload: str) -> None:
        """A acks, and loses its connection before the broker has the ack. It is connected again after that."""

    def cut(self) -> None:
        """A loses its connection."""

    def mend(self) -> None:
        """A is connected again."""


class RealCutSide(RealSide):
    """A real Pulsar, and a link to it."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.url)
        self.link = PulsarLink(broker.port)
        self._behind = open_client(self.link.url)

    def subscribe(self, name: str, client: Any = None) -> None:
        super().subscribe(name, self._behind if name == "A" else None)

    def ack_in_vain(self, payload: str) -> None:
        self.link.lose(ACK)
        self.consumer("A").acknowledge(self.message("A", payload))
        self.link.wait_lost(1)
        self.link.lose(0)
        self.cut()
        self.mend()

    def cut(self) -> None:
        self.link.cut()
        until(lambda: not self.consumer("A").is_connected(), TIMEOUT, "loss of the connection")

    def mend(self) -> None:
        self.link.mend()
        until(self.consumer("A").is_connected, TIMEOUT, "new connection")
        self.quiet()  # the library asks for messages before it can be told to go on

    def close(self) -> None:
        self._behind.close()
        self.client.close()
        self.link.close()


class SimCutSide(SimSide):
    """The same on the simulated library."""

    def ack_in_vain(self, payload: str) -> None:
        self.consumer("A").acknowledge(self.message("A", payload))
        self.cut()
        self.mend()

    def cut(self) -> None:
        self.consumer("A").disconnect()

    def mend(self) -> None:
        self.consumer("A").connect()
        self.quiet()

    def close(self) -> None:
        pass


@pytest.fixture(params=["real", "simulated"])
def side(request: pytest.FixtureRequest) -> Iterator[CutSide]:
    one = SimCutSide() if request.param == "simulated" else RealCutSide(request.getfixturevalue("broker"))
    yield one
    one.close()


def test_an_ack_that_was_lost_with_the_connection_is_forgotten_and_the_message_comes_again_first(side: CutSide) -> None:
    side.publish("a")
    side.publish("b")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.ack_in_vain("a")
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 0)])
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 0), ("b", 0)])


def test_an_ack_without_a_connection_raises_nothing_and_is_lost(side: CutSide) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.cut()
    side.consumer("A").acknowledge(side.message("A", "a"))
    side.quiet()
    side.mend()
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 0)])


def test_an_ack_counts_after_a_new_connection_although_another_consumer_was_given_the_message(side: CutSide) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.subscribe("B")
    side.cut()
    side.expect("B", [("a", 0)])
    side.mend()
    side.consumer("A").acknowledge(side.message("A", "a"))
    side.quiet()  # acks are collected for a while
    side.consumer("A").resume_message_listener()
    side.consumer("B").close()
    side.quiet()
    assert side.came("A") == [("a", 0)]


def test_a_nak_of_what_another_consumer_has_by_now_does_nothing(side: CutSide) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.subscribe("B")
    side.cut()
    side.expect("B", [("a", 0)])
    side.mend()
    side.consumer("A").negative_acknowledge(side.message("A", "a"))
    for name in ("A", "B"):
        side.consumer(name).resume_message_listener()
    side.quiet()
    assert (side.came("A"), side.came("B")) == ([("a", 0)], [("a", 0)])


def test_a_lost_connection_leaves_the_count_as_it_is_while_another_consumer_stands(side: CutSide) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.consumer("A").negative_acknowledge(side.message("A", "a"))
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 1)])
    side.subscribe("B")
    side.cut()
    side.expect("B", [("a", 1)])


def test_a_lost_connection_of_the_only_consumer_ends_the_counts(side: CutSide) -> None:
    side.publish("a")
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    side.consumer("A").negative_acknowledge(side.message("A", "a"))
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 1)])
    side.cut()
    side.mend()
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("a", 1), ("a", 0)])
