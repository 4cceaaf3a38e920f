"""supervisor/broker/other_nodes.py: whether other nodes serve what this one sends back."""

from __future__ import annotations

import pytest

from supervisor.broker.other_nodes import MOST_REMEMBERED, REDELIVERED_WITHIN, SEEN_FOR, OtherNodes
from supervisor.events import Received

LATER = REDELIVERED_WITHIN + 0.1


def message(
    entry: int, redeliveries: int = 0, partition: int = -1, ledger: int = 1, *, chunked: bool = False
) -> Received:
    return Received(entry, (ledger, entry, partition, -1), b"", 0.0, 0.0, 0.0, redeliveries, chunked)


def send_back(others: OtherNodes, entry: int, now: float, redeliveries: int = 0) -> None:
    others.arrived(message(entry, redeliveries), now)
    others.sent_back(message(entry).key, now)


def test_nothing_is_known_at_first() -> None:
    assert not OtherNodes().serve(0.0)


def test_a_message_that_was_sent_back_and_does_not_come_before_a_later_one_was_kept_by_another_node() -> None:
    others = OtherNodes()
    send_back(others, 1, 10.0)
    others.arrived(message(2), 10.0 + LATER)
    assert others.serve(10.0 + LATER)
    assert not others.serve(10.0 + LATER + SEEN_FOR)


def test_of_a_backlog_that_several_nodes_take_from_each_gets_a_part() -> None:
    """A node that has left the subscription for a moment has sent nothing back that could be missing."""
    others = OtherNodes()
    others.arrived(message(1), 10.0)
    others.arrived(message(2), 10.0)
    assert not others.serve(10.0)
    others.arrived(message(9), 12.0)
    assert others.serve(12.0)
    others.arrived(message(10, redeliveries=1), 13.0)  # others send back what they get
    assert not others.serve(13.0)


@pytest.mark.parametrize(
    "later",
    [
        [message(1)],
        [message(2)],
        [message(9, redeliveries=1)],
        [message(9, partition=3)],
        [message(0, ledger=2)],
        [message(9, chunked=True)],
        [message(2, chunked=True), message(9)],
    ],
    ids=[
        "the same",
        "the next",
        "redelivered",
        "another partition",
        "another ledger",
        "in chunks",
        "behind one in chunks",
    ],
)
def test_entries_that_are_not_missing_show_nothing(later: list[Received]) -> None:
    others = OtherNodes()
    others.arrived(message(1), 10.0)
    for each in later:
        others.arrived(each, 10.0)
    assert not others.serve(10.0)


def test_a_message_that_waited_at_the_intake_and_went_back_is_not_missing() -> None:
    others = OtherNodes()
    others.arrived(message(1), 10.0)
    others.sent_back(message(2).key, 10.0)
    others.arrived(message(3), 10.5)
    assert not others.serve(10.5)


def test_a_lone_node_gets_all_that_it_sends_back_and_sees_nobody() -> None:
    others = OtherNodes()
    ready_at = dict.fromkeys(range(300), 0.0)  # when the broker may hand each message out
    times = dict.fromkeys(ready_at, 0)
    for turn in range(1000):
        now = turn / 25
        entry = next(entry for entry, at in ready_at.items() if at <= now)  # the first of the topic
        others.arrived(message(entry, redeliveries=times[entry]), now)
        others.sent_back(message(entry).key, now)
        times[entry] += 1
        ready_at[entry] = now + 0.3
        assert not others.serve(now)
    assert max(times.values()) > 3


def test_a_later_message_shows_nothing_while_the_broker_may_not_have_redelivered_the_other_yet() -> None:
    others = OtherNodes()
    send_back(others, 1, 10.0)
    others.arrived(message(2), 10.0 + REDELIVERED_WITHIN)
    assert not others.serve(10.0 + REDELIVERED_WITHIN)


def test_an_earlier_message_and_one_of_another_partition_show_nothing() -> None:
    others = OtherNodes()
    send_back(others, 5, 10.0)
    others.arrived(message(4), 10.0 + LATER)
    others.arrived(message(9, partition=3), 10.0 + LATER)
    assert not others.serve(10.0 + LATER)


def test_nodes_that_send_messages_back_as_well_do_not_serve() -> None:
    others = OtherNodes()
    send_back(others, 1, 10.0)
    others.arrived(message(2), 10.0 + LATER)
    others.arrived(message(3, redeliveries=1), 10.0 + LATER)  # which this node has never sent back
    assert not others.serve(10.0 + LATER)
    send_back(others, 4, 20.0)
    others.arrived(message(6), 20.0 + LATER)
    assert not others.serve(20.0 + LATER)
    assert others.serve(10.0 + LATER + SEEN_FOR)


def test_the_memory_is_bounded() -> None:
    others = OtherNodes()
    for entry in range(3 * MOST_REMEMBERED):
        others.sent_back(message(entry).key, 0.0)
    assert len(others._sent_back) == len(others._times) == MOST_REMEMBERED
