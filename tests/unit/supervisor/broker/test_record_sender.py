"""supervisor/broker/record_sender.py: records and dead letters are sent until the broker has them."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.broker import STORE_RETRY, DeadLetter, RecordSender
from supervisor.events import Stored

LETTER = DeadLetter(b"payload", {"reason": "r"})


class Storage:
    """The broker, as far as it stores."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def publish_record(self, number: int, record: bytes) -> None:
        self.sent.append("record")

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        self.sent.append("letter")


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def sender(storage: Any) -> RecordSender:
    return RecordSender(storage)


def test_a_delivery_is_stored_once_its_record_is(sender: RecordSender) -> None:
    sender.send(1, b"{}", None)
    assert not sender.is_stored(1)
    assert sender.stored(0.0, Stored(1, ""), "id")
    assert sender.is_stored(1)
    assert not sender.stored(0.0, Stored(1, ""), "id")  # a second confirmation changes nothing


def test_a_dead_letter_is_waited_for_as_well(sender: RecordSender) -> None:
    sender.send(1, b"{}", LETTER)
    assert not sender.stored(0.0, Stored(1, ""), "id")
    assert sender.stored(0.0, Stored(1, "", dead_letter=True), "id")


def test_only_what_could_not_be_stored_is_sent_again(storage: Storage, sender: RecordSender) -> None:
    sender.send(1, b"{}", LETTER)
    sender.stored(0.0, Stored(1, ""), "id")
    sender.stored(0.0, Stored(1, "timeout", dead_letter=True), "id")
    sender.retry(STORE_RETRY / 2)
    assert storage.sent == ["record", "letter"]
    assert sender.next_retry() == STORE_RETRY
    sender.retry(STORE_RETRY)
    assert storage.sent == ["record", "letter", "letter"]
    assert sender.next_retry() == float("inf")
