"""What the adapter does with billing records and dead letters, and what it reports of each."""

from __future__ import annotations

import pytest

from supervisor.events import Stored
from tests.support.fake_pulsar import AuthorizationError, PulsarException, Result
from tests.unit.supervisor.broker.adapter import WHOLE, Setup


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
