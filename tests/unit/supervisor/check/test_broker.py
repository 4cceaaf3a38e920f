"""`--check`: the lines about the broker, and the advice where it, or the Pulsar library, does not do what is needed."""

from __future__ import annotations

import pytest

from supervisor.broker import Access, Answer, Topics
from supervisor.check import broker
from supervisor.check.findings import Mark, run_all
from tests.support.check import context, marks, one_line

OAUTH2 = {"PULSAR_TOKEN": "", "PULSAR_OAUTH2": '{"issuer_url": "https://a", "private_key": "/missing"}'}


def advice(text: str, **variables: str) -> str:
    """What is advised where the Pulsar library says this."""

    def probe(access: Access, topics: Topics) -> tuple[Answer, str]:
        return Answer.FAILED, text

    known = context(**variables)
    known.broker_accepts.set_result(True)
    (finding,) = broker.operation(known, broker.STORES, "may", "topic res-topic", "produce", probe)
    assert (finding.mark, finding.text) == (Mark.FAULT, f"topic res-topic: {text}")
    return finding.advice


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("TimeOut", "allowAutoSubscriptionCreation"),
        ("TopicTerminated", "delete the topic"),
        ("IncompatibleSchema", "schema"),
        ("AuthenticationError", "the broker's log"),
        ("UnknownError", "the broker's log"),
    ],
)
def test_a_failure_that_the_library_names_has_its_own_advice(text: str, word: str) -> None:
    assert word in advice(text)


def test_credentials_that_cannot_be_used_are_named_by_their_variable() -> None:
    assert advice("AuthenticationError", **OAUTH2).startswith("correct PULSAR_OAUTH2: ")


def test_without_a_connection_rights_are_not_tried() -> None:
    found = run_all(broker.checks(), context())
    assert marks(found) == [
        ("broker", Mark.FAULT), ("broker: tasks", Mark.SKIPPED), ("broker: records", Mark.SKIPPED),
        ("broker: claims", Mark.SKIPPED),
    ]  # fmt: skip
    assert one_line(found[0]).startswith("FAULT: no connection to Pulsar: nothing listens at 127.0.0.1:1 → ")


@pytest.mark.parametrize(
    ("reported", "shown"),
    [("Pulsar Server4.0.8", "Pulsar 4.0.8"), ("Pulsar Server 4.1", "Pulsar 4.1"), ("x-1", "x-1"), ("", "a broker")],
)
def test_the_brokers_version_is_shown_as_a_person_writes_it(reported: str, shown: str) -> None:
    assert broker.named(reported) == shown
