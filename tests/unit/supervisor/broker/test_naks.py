"""Naks: events in, naks out, the clock passed in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from supervisor.broker.naks import BATCH_PAUSE, SEND_INTERVAL, Naks
from supervisor.events import Entry, MessageKey, Received

LATER = 100.0  # monotonic: long after whatever came before


@dataclass
class Ledger:
    """What the ledger knows of batches."""

    here: set[Entry] = field(default_factory=set)
    answered: set[Entry] = field(default_factory=set)

    def has_others_of_batch(self, key: MessageKey) -> bool:
        return key[:3] in self.here

    def has_answered_of_batch(self, key: MessageKey) -> bool:
        return key[:3] in self.answered


NOTHING = Ledger()


def message(entry: int, index: int = -1, partition: int = -1) -> Received:
    return Received(None, (1, entry, partition, index), b"", 0, 0, 0, 0)


def sent(naks: Naks, now: float, ledger: Ledger = NOTHING) -> list[MessageKey]:
    return [received.key for received in naks.take_due(now, ledger).redeliver]


def test_a_nak_is_not_sent_before_it_is_due() -> None:
    naks = Naks()
    naks.add(message(1), due=5.0)
    assert naks.next_at() == 5.0
    assert sent(naks, 4.9) == []
    assert sent(naks, 5.0) == [message(1).key]
    assert len(naks) == 0


def test_what_is_due_together_is_sent_together_in_the_order_of_its_time() -> None:
    naks = Naks()
    for entry, due in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 9.0)):
        naks.add(message(entry), due)
    assert sent(naks, 5.0) == [message(entry).key for entry in (2, 3, 1)]
    assert len(naks) == 1


def test_naks_are_sent_at_most_once_an_interval_however_fast_naks_come() -> None:
    """A nak more often than the library's delay would have it send none at all."""
    naks = Naks()
    naks.add(message(1), 1.0)
    assert sent(naks, 1.0)
    naks.add(message(2), 1.0)
    assert naks.next_at() == 1.0 + SEND_INTERVAL
    assert sent(naks, 1.1) == []
    assert sent(naks, 1.0 + SEND_INTERVAL) == [message(2).key]


def test_a_message_that_the_broker_redelivered_by_itself_is_not_naked() -> None:
    naks = Naks()
    naks.add(message(1), 1.0)
    naks.arrived(message(1), 0.5)
    assert len(naks) == 0
    assert naks.next_at() == float("inf")
    assert sent(naks, LATER) == []


def test_a_second_nak_of_a_message_replaces_the_first() -> None:
    naks = Naks()
    naks.add(message(1), 1.0)
    naks.add(message(1), 7.0)
    assert len(naks) == 1
    assert sent(naks, 1.0) == []
    assert sent(naks, 7.0) == [message(1).key]


@pytest.mark.parametrize("everything", [False, True])
def test_a_batch_with_a_message_here_is_not_naked_unless_the_node_stops(everything: bool) -> None:
    naks, ledger = Naks(), Ledger(here={(1, 1, -1)})
    naks.add(message(1, index=0), 1.0)
    due = naks.take_due(LATER, ledger, everything=everything)
    assert bool(due.redeliver) is everything
    assert len(naks) == (not everything)
    ledger.here.clear()
    assert bool(naks.take_due(2 * LATER, ledger).redeliver) is not everything


def test_a_batch_of_which_one_nak_is_not_due_waits_for_it() -> None:
    naks = Naks()
    naks.add(message(1, index=0), 1.0)
    naks.add(message(1, index=1), 8.0)
    assert sent(naks, 2.0) == []
    assert sent(naks, 8.0) == [message(1, index=0).key, message(1, index=1).key]


def test_a_batch_that_may_still_be_arriving_waits_for_the_rest_of_it() -> None:
    naks = Naks()
    naks.arrived(message(1, index=0), 1.0)
    naks.add(message(1, index=0), 1.0)
    assert sent(naks, 1.0 + BATCH_PAUSE / 2) == []
    assert sent(naks, 1.0 + 2 * BATCH_PAUSE) == [message(1, index=0).key]


def test_a_batch_is_complete_when_a_message_of_another_came() -> None:
    naks = Naks()
    naks.arrived(message(1, index=0), 1.0)
    naks.add(message(1, index=0), 1.0)
    naks.arrived(message(2), 1.0)
    assert sent(naks, 1.0) == [message(1, index=0).key]


def test_entries_of_different_partitions_are_different_batches() -> None:
    naks, ledger = Naks(), Ledger(here={(1, 1, 0)})
    naks.add(message(1, index=0, partition=0), 1.0)
    naks.add(message(1, index=0, partition=1), 1.0)
    assert sent(naks, LATER, ledger) == [message(1, index=0, partition=1).key]


def test_of_a_batch_that_was_answered_in_part_the_rest_is_tried_again_here() -> None:
    naks = Naks()
    naks.add(message(1, index=1), 1.0)
    due = naks.take_due(LATER, Ledger(answered={(1, 1, -1)}))
    assert due.redeliver == []
    assert [received.key for received in due.retry_here] == [message(1, index=1).key]


def test_a_message_that_came_in_no_batch_is_naked_whatever_was_answered() -> None:
    naks = Naks()
    naks.add(message(1), 1.0)
    assert sent(naks, LATER, Ledger(here={(1, 1, -1)}, answered={(1, 1, -1)})) == [message(1).key]


def test_a_message_that_came_in_chunks_is_tried_again_here() -> None:
    naks = Naks()
    naks.add(replace(message(1), is_chunked=True), 1.0)
    due = naks.take_due(LATER, NOTHING)
    assert (due.redeliver, [received.key for received in due.retry_here]) == ([], [message(1).key])


def test_everything_is_sent_when_the_node_stops() -> None:
    naks = Naks()
    naks.add(message(1), LATER)
    naks.add(message(2, index=3), LATER)
    due = naks.take_due(0.0, Ledger(answered={(1, 2, -1)}), everything=True)
    assert len(due.redeliver) == 2
    assert naks.next_at() == float("inf")


def test_many_naks_that_are_redelivered_early_leave_no_state_behind() -> None:
    naks = Naks()
    for entry in range(1000):
        naks.add(message(entry, index=0), LATER)
        naks.arrived(message(entry, index=0), 0.0)
    assert naks.next_at() == float("inf")
    assert not naks._queue
    assert not naks._by_entry
