"""When a stream may be sent: the lease, and claims that were stored late."""

from __future__ import annotations

import pytest

from supervisor.claims.claims import LEASE, STORED_WITHIN
from supervisor.claims.reading import MARGIN
from supervisor.claims.table import ClaimMessage
from supervisor.events import ClaimsOpened, ClaimsRead
from tests.unit.supervisor.claims.claims.box import DENIED, END_GRANTED, FAULT, GRANTED, KEPT, Box, came
from workernode.protocol import Granted


def test_the_lease_counts_from_the_moment_at_which_a_stored_message_was_sent() -> None:
    box = Box()
    assert box.claims.lease == 0.0
    box.claims.take(came(box.now), 1, "r")
    box.turn()
    sent_at = box.now
    box.store(seconds=5.0)
    assert box.claims.lease == sent_at + LEASE


def test_an_idle_node_gets_a_lease_with_its_next_claim() -> None:
    box = Box()
    box.take()
    box.claims.recorded(1, "r")
    box.run(1.0)
    box.turn(1000.0)
    box.take()
    assert box.claims.lease > box.now
    assert box.reading == []


def lapsed() -> Box:
    """Return a node whose stream has begun and whose lease has run out."""
    box = Box()
    box.take()
    box.ask()
    box.turn(LEASE + 1.0)
    assert box.claims.lease <= box.now
    return box


def test_a_node_that_could_store_nothing_for_a_lease_reads_whether_others_have_taken_over() -> None:
    box = lapsed()
    assert box.reading == [pytest.approx(LEASE + MARGIN, abs=2.0)]
    box.store(read_back=False)
    assert box.claims.lease <= box.now, "stored is not enough"


def test_a_node_whose_claims_still_stand_goes_on() -> None:
    box = lapsed()
    box.read(ClaimMessage("me", begun=["r"]))
    box.store()
    assert box.claims.lease > box.now
    assert box.ask(is_end=True) == END_GRANTED


def test_a_node_whose_claim_was_taken_over_sends_nothing_more() -> None:
    box = lapsed()
    box.read(
        ClaimMessage("me", begun=["r"]), ClaimMessage("b", suspects=["me"]), ClaimMessage("b", takes=[("r", "me")])
    )
    box.store()
    assert box.claims.grants() == DENIED
    assert box.ask(is_end=True) == [Granted(1, False, is_end=True)]


def test_what_is_asked_in_doubt_is_answered_after_it() -> None:
    box = lapsed()
    box.claims.ask(1, "r", True)
    assert box.claims.grants() == []
    box.read(ClaimMessage("me", begun=["r"]))
    box.store()
    assert box.claims.grants() == [], "its end is not stored yet"
    box.turn()
    box.store()
    assert box.claims.grants() == END_GRANTED


def test_a_stream_that_waits_in_doubt_may_end_when_claims_can_be_used_no_more() -> None:
    """Given back, it would be sent again from its beginning: without claims no other node knows that it had begun."""
    box = lapsed()
    box.claims.ask(1, "r", True)
    box.claims.opened(ClaimsOpened("TopicTerminated", is_refused=True))
    assert END_GRANTED[0] in box.claims.grants()


def test_the_first_of_two_copies_of_a_message_ends_no_doubt_about_what_came_between_them() -> None:
    """The library gave it up, and the broker had stored it; it is sent again, with a mark of its own."""
    box = lapsed()
    first = next(iter(box.sent.values()))
    box.store(FAULT)
    box.turn(60.0)
    box.read(ClaimMessage("me", begun=["r"]), first)
    assert box.claims.lease <= box.now
    box.read(ClaimMessage("b", suspects=["me"]), ClaimMessage("b", takes=[("r", "me")]))
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == DENIED


@pytest.mark.parametrize("is_new_reader", [False, True])
def test_in_doubt_the_claims_are_read_from_before_the_receipt_of_what_this_node_has(is_new_reader: bool) -> None:
    """It may have had a task for longer than claims are remembered, if its record cannot be stored."""
    box = Box()
    box.take()
    box.run(2 * KEPT)
    box.turn(LEASE + 1.0)
    if is_new_reader:
        box.claims.read(box.now, ClaimsRead(b"", is_start=True))
        box.turn()
    assert box.reading == [pytest.approx(2 * KEPT + LEASE + MARGIN, abs=5.0)]


# --- a claim that was stored late ---


def test_a_claim_that_was_stored_late_is_read_before_its_stream_begins() -> None:
    """Its connection was cut just then; another node has got the message and was the first."""
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    box.turn()
    box.store(read_back=False, seconds=2 * STORED_WITHIN)
    box.claims.ask(1, "r", False)
    box.turn()
    assert box.reading == [pytest.approx(MARGIN, abs=1.0)]
    box.read(ClaimMessage("b", taken=["r"]), ClaimMessage("me", taken=["r"]))
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == DENIED


def test_a_claim_that_was_stored_late_and_was_the_first_lets_its_stream_begin() -> None:
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    box.turn()
    box.store(read_back=False, seconds=2 * STORED_WITHIN)
    box.claims.ask(1, "r", False)
    box.turn()
    box.read(ClaimMessage("me", taken=["r"]), ClaimMessage("b", taken=["r"]))
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == GRANTED


def test_a_claim_that_is_not_stored_yet_lets_no_stream_begin() -> None:
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    box.claims.ask(1, "r", False)
    (sent,) = box.turn()
    assert (sent.taken, sent.begun) == (["r"], [])
