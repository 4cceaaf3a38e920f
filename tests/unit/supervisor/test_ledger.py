"""The ledger: a message is in one place, and is known again after it was answered, nak'd or fatal to a worker."""

from __future__ import annotations

import pytest

from supervisor import ledger as ledger_module
from supervisor.events import MessageKey, Received
from supervisor.ledger import KILLS_PER_DEATH, Delivery, Ledger, Place, Recent
from workernode.protocol import Decision, Outcome

NO_BATCH = -1


def received(entry: int, batch_index: int = NO_BATCH, redeliveries: int = 0) -> Received:
    key: MessageKey = (7, entry, 0, batch_index)
    return Received(object(), key, b"{}", 0.0, 0.0, 0.0, redeliveries)


def close(ledger: Ledger, delivery: Delivery, decision: Decision) -> None:
    delivery.outcome = Outcome(delivery.number, delivery.request_id, decision, "", b"")
    ledger.close(delivery)


def test_a_delivery_is_counted_in_exactly_one_place() -> None:
    ledger = Ledger()
    one, other = ledger.open(received(1), "a"), ledger.open(received(2), "b")
    ledger.move(one, Place.RUNNING)
    assert {place: ledger.count(place) for place in Place if ledger.count(place)} == {Place.QUEUED: 1, Place.RUNNING: 1}
    ledger.move(one, Place.RECORDING)
    close(ledger, one, Decision.ACK)
    assert {place: ledger.count(place) for place in Place if ledger.count(place)} == {Place.QUEUED: 1}
    assert list(ledger) == [other]
    assert len(ledger) == 1
    assert ledger.get(one.number) is None


def test_a_message_handed_out_twice_is_recognised_while_it_is_here() -> None:
    ledger = Ledger()
    one = ledger.open(received(1), "a")
    assert ledger.holds(received(1, redeliveries=3))
    assert ledger.is_open("a")
    close(ledger, one, Decision.ACK)
    assert not ledger.holds(received(1))
    assert not ledger.is_open("a")


@pytest.mark.parametrize(
    ("decision", "answered"), [(Decision.ACK, True), (Decision.DEAD_LETTER, True), (Decision.NAK, False)]
)
def test_what_was_answered_is_known_again_by_message_and_by_request(decision: Decision, answered: bool) -> None:
    ledger = Ledger()
    close(ledger, ledger.open(received(1), "a"), decision)
    assert ledger.was_answered(received(1)) is answered
    assert ledger.was_answered(received(2), "a") is answered
    assert not ledger.was_answered(received(2), "")


def test_redeliveries_are_the_brokers_count_or_the_nodes_own() -> None:
    ledger = Ledger()
    for _ in range(2):
        close(ledger, ledger.open(received(1), "a"), Decision.NAK)
    assert ledger.redeliveries(received(1)) == 2  # the broker was restarted: its count began again
    assert ledger.redeliveries(received(1, redeliveries=5)) == 5
    close(ledger, ledger.open(received(1), "a"), Decision.ACK)
    assert ledger.redeliveries(received(1)) == 0


def test_deaths_are_counted_until_the_message_is_done_with() -> None:
    ledger = Ledger()
    one = ledger.open(received(1), "a")
    assert ledger.died_with(one, is_from_outside=False)
    close(ledger, one, Decision.NAK)
    again = ledger.open(received(1), "a")
    assert ledger.died_with(again, is_from_outside=False)
    assert ledger.deaths(again.received.key) == 2
    close(ledger, again, Decision.ACK)
    assert ledger.deaths(again.received.key) == 0


def test_of_workers_killed_from_outside_only_every_fourth_counts_against_their_message() -> None:
    ledger = Ledger()
    key = received(1).key
    counts = []
    for _ in range(2 * KILLS_PER_DEATH):
        one = ledger.open(received(1), "a")
        counts.append(ledger.died_with(one, is_from_outside=True))
        close(ledger, one, Decision.NAK)
    assert counts == ([False] * (KILLS_PER_DEATH - 1) + [True]) * 2
    assert ledger.deaths(key) == 2
    one = ledger.open(received(1), "a")
    assert ledger.died_with(one, is_from_outside=False)
    assert ledger.deaths(key) == 3
    close(ledger, one, Decision.ACK)
    assert ledger.deaths(key) == 0


def test_a_redelivery_after_a_worker_was_killed_from_outside_costs_no_try() -> None:
    ledger = Ledger()
    for is_from_outside in (True, False):
        one = ledger.open(received(1), "a")
        ledger.died_with(one, is_from_outside)
        close(ledger, one, Decision.NAK)
    assert ledger.redeliveries(received(1, redeliveries=5)) == 5
    assert ledger.tries(received(1, redeliveries=5)) == 4
    assert ledger.tries(received(1)) == 1


def test_messages_of_a_batch_know_of_each_other() -> None:
    ledger = Ledger()
    first, second = ledger.open(received(1, 0), "a"), ledger.open(received(1, 1), "b")
    alone = ledger.open(received(2), "c")
    assert ledger.has_others_of_batch(second.received.key)
    close(ledger, first, Decision.NAK)
    close(ledger, second, Decision.NAK)
    assert not ledger.has_others_of_batch(first.received.key)
    assert not ledger.has_answered_of_batch(first.received.key)
    close(ledger, ledger.open(received(1, 0), "a"), Decision.ACK)
    assert ledger.has_answered_of_batch(second.received.key)
    close(ledger, alone, Decision.ACK)
    assert not ledger.has_answered_of_batch(alone.received.key)


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "REMEMBERED", 10)
    ledger = Ledger()
    for entry in range(50):
        one = ledger.open(received(entry, 0), f"id-{entry}")
        ledger.died_with(one, is_from_outside=entry % 3 == 0)
        close(ledger, one, Decision.ACK if entry % 2 else Decision.NAK)
    tables = [value for name, value in vars(ledger).items() if hasattr(value, "__len__") and name != "_counts"]
    assert all(len(table) <= (20 if isinstance(table, Recent) else 10) for table in tables)
    assert ledger.was_answered(received(49, 0))
    assert not ledger.was_answered(received(1, 0))


def test_of_many_values_at_least_the_latest_are_known_and_at_most_twice_as_many() -> None:
    recent = Recent(10)
    for value in range(1000):
        recent.add(value)
        assert all(latest in recent for latest in range(max(0, value - 9), value + 1))
        assert len(recent) <= 20
    assert 979 not in recent


def test_a_value_that_has_come_again_is_known_as_long_as_a_new_one() -> None:
    recent = Recent(10)
    for value in (1, *range(100, 109), 1, *range(200, 209)):
        recent.add(value)
    assert 1 in recent
