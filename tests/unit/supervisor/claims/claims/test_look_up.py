"""Messages that are looked up, because another node may have them too."""

from __future__ import annotations

import pytest

from supervisor.broker import claims_topic
from supervisor.claims import Finding
from supervisor.claims.claims import LEASE
from supervisor.claims.look_ups import GRACE, LIFE, LOOK_UP_LIMIT, SILENCE
from supervisor.claims.reading import MARGIN, READ_ON, STORED_BEYOND
from supervisor.claims.table import ClaimMessage, ClaimTable
from supervisor.events import ClaimsOpened, ClaimsRead, Received
from tests.unit.supervisor.claims.claims.box import DENIED, GRANTED, KEPT, Box, came, message


def box_that_asks_in_vain() -> Box:
    """A node that found out nothing about a message in time, and whose stream asks to begin."""
    box = Box()
    box.look_up_in_vain()
    box.claims.ask(1, "r", False)
    box.turn()
    return box


def test_a_message_is_looked_up_with_a_reader_that_stops_after_a_while() -> None:
    box = Box()
    assert not box.claims.is_new(message())
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    assert box.reading == [pytest.approx(MARGIN, abs=1.0)]
    box.store()
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    box.claims.recorded(1, "r")
    box.run(READ_ON + 2.0)
    assert box.reading == [pytest.approx(MARGIN, abs=1.0), 0.0]
    assert not box.claims._received
    assert not box.claims._own


def test_messages_of_a_reader_that_was_stopped_are_passed_over() -> None:
    box = Box()
    box.read(ClaimMessage("b", taken=["r"]))
    assert len(box.claims._look_ups.table) == 0


def test_a_message_that_is_not_known_is_read_before_its_stream_begins() -> None:
    box = box_that_asks_in_vain()
    box.read(ClaimMessage("b", taken=["r"]))
    box.store()
    assert box.claims.grants() == DENIED


@pytest.mark.parametrize("before", [ClaimMessage("me", ended=["r"]), ClaimMessage("me", begun=["r"])])
def test_a_message_that_is_not_known_and_that_this_node_had_answered_begins_no_stream(before: ClaimMessage) -> None:
    box = box_that_asks_in_vain()
    box.read(before)
    box.store()
    assert box.claims.grants() == DENIED


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_task_whose_stream_may_not_begin_here_is_given_free_in_the_topic(is_recorded: bool) -> None:
    """Seen in the simulation: two nodes, each of which took the other for the one that works on the task, for ever."""
    box = box_that_asks_in_vain()
    box.read(ClaimMessage("b", taken=["r"]), ClaimMessage("b", begun=["r"], unended=["r"]))
    box.read(ClaimMessage("me", taken=["r"]))
    box.store()
    assert box.claims.grants() == DENIED
    if is_recorded:
        box.claims.recorded(1, "r")
        assert box.turn() == [ClaimMessage("me", recorded=["r"])]
    else:
        box.claims.given_back(1, "r")
        assert box.turn() == [ClaimMessage("me", released=["r"])]


def test_a_node_that_stood_still_after_a_look_up_reads_again_before_its_stream_begins() -> None:
    """Its claim was sent before it stood still; meanwhile another node has taken over."""
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.store()
    box.now += 2 * LEASE
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    box.claims.ask(1, "r", False)
    box.turn()
    box.read(ClaimMessage("b", suspects=["me"]), ClaimMessage("b", takes=[("r", "me")]))
    box.store()
    box.turn()
    box.store()
    assert DENIED[0] in box.claims.grants()


@pytest.mark.parametrize("was_given_back", [True, False])
def test_messages_that_another_node_has_given_back_show_nothing_of_those_behind_them(was_given_back: bool) -> None:
    box = Box()
    for entry in range(3):
        received = Received(None, (1, entry, 0, -1), b"", 0.0, 0.0, box.now, 0, has_waited=True)
        box.claims.is_new(received)
        box.claims.look_up(box.now, entry, f"r{entry}", received, box.now + 100.0)
        if was_given_back:
            box.read(ClaimMessage("b", taken=[f"r{entry}"]), ClaimMessage("b", withdrawn=[f"r{entry}"]))
        box.turn(0.01)
        box.store()
        assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    behind = Received(None, (1, 3, 0, -1), b"", 0.0, 0.0, box.now + 0.01, 0)
    assert box.claims.is_new(behind) is not was_given_back


def test_a_task_whose_takeover_is_stored_late_is_given_free_when_it_goes_back() -> None:
    """Seen in the simulation (seed 80047435): the look-up had ended, and nobody gave the task back."""
    box, table = Box(), ClaimTable()
    log = [ClaimMessage("b", taken=["r"])]  # the topic
    box.claims.look_up(box.now, 1, "r", message(), box.now + SILENCE + LIFE)
    box.turn()
    box.read(*log)
    while not any(each.takes for each in box.sent.values()):
        log += box.sent.values()
        box.store()
        box.turn(1.0)
    box.claims.read(box.now, ClaimsRead(b"", is_start=True))  # the reader is made anew, and the suspicion forgotten
    box.read(*log)
    box.store("Timeout")
    box.turn(GRACE)
    assert box.claims.found(box.now)[-1].finding is Finding.GIVE_BACK
    box.claims.given_back(1, "r", has_left=False)
    for _ in range(5):
        box.turn(1.0)
        log += box.sent.values()
        box.store()
    assert any(each.takes for each in log)
    for second, each in enumerate(log):
        table.apply(each, float(second))
    assert not table.is_held_by("r", "me")


def look_up(box: Box, number: int, age: float) -> None:
    """Look a message up that was published so many seconds ago. Its age may have been taken for a clock that is behind
    (publisher_clocks.py): what it was stamped with counts (seeds 112001919, 122002674).
    """
    received = Received(None, (1, number, 0, -1), b"", age, age, box.now, 0, is_corrected=True, age_by_stamp=age)
    box.claims.look_up(box.now, number, f"r{number}", received, box.now + 10 * KEPT)
    box.turn()


def test_for_an_old_message_the_claims_are_read_from_before_its_publication_on() -> None:
    """Its ack was lost, and no node has taken messages since (seed 71010222)."""
    box = Box()
    look_up(box, 1, 2 * KEPT)
    assert box.reading == [pytest.approx(2 * KEPT + MARGIN, abs=1.0)]


@pytest.mark.parametrize("age", [0.0, 100.0, KEPT - MARGIN])
def test_for_a_message_only_the_claims_since_shortly_before_its_publication_are_read(age: float) -> None:
    """A busy model has so many claims that all of them are not read in the time that a look-up has."""
    box = Box()
    look_up(box, 1, age)
    assert box.reading == [pytest.approx(age + MARGIN, abs=1.0)]
    assert box.remembered == [pytest.approx(min(age + 2 * MARGIN, KEPT), abs=1.0)]


def test_for_a_message_of_a_publisher_whose_clock_is_ahead_they_are_read_from_before_its_receipt_on() -> None:
    box = Box()
    ahead = Received(None, (1, 1, 0, -1), b"", 50.0, 50.0, box.now, 0, is_corrected=True, age_by_stamp=-360.0)
    box.claims.look_up(box.now, 1, "r", ahead, box.now + KEPT)
    box.turn()
    assert box.reading == [pytest.approx(MARGIN, abs=1.0)]


def test_a_row_of_ever_older_messages_has_the_claims_read_again_only_once() -> None:
    box = Box()
    for number in range(1, 60):
        look_up(box, number, number * 10.0)
    assert box.reading == [pytest.approx(10.0 + MARGIN, abs=2.0), pytest.approx(KEPT)]


def test_claims_are_remembered_no_longer_than_for_messages_of_the_age_of_the_one_looked_up() -> None:
    """A busy model has some hundred claims a second, and each takes 200 bytes."""
    box = Box()
    look_up(box, 1, 0.0)
    for number in range(200):
        box.read(ClaimMessage("b", taken=[f"x{number}"]))
        look_up(box, 1000 + number, 0.0)
        box.run(1.0)
    assert len(box.reading) == 1
    others = [each for each in box.claims._look_ups.table._claims if each.startswith("x")]
    assert 2 * MARGIN - 5 <= len(others) <= 2 * MARGIN + 5


def test_for_a_message_older_than_what_is_remembered_the_claims_are_read_again() -> None:
    box = Box()
    look_up(box, 1, 0.0)
    box.read(ClaimMessage("b", recorded=["r3"]))
    for number in range(100, 200):
        look_up(box, number, 0.0)
        box.run(1.0)
    look_up(box, 2, MARGIN)
    assert len(box.reading) == 1
    look_up(box, 3, 2 * MARGIN)
    assert box.reading[1:] == [KEPT]
    box.read(ClaimMessage("b", recorded=["r3"]))
    box.run(1.0)
    assert (3, Finding.ENDED) in [(each.number, each.finding) for each in box.claims.found(box.now)]


@pytest.mark.parametrize("is_in_doubt", [True, False])
def test_while_a_claim_of_this_node_is_to_be_found_none_is_forgotten(is_in_doubt: bool) -> None:
    """The topic is away for longer than claims are remembered; another node was the first, or has taken over."""
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    box.turn()
    box.store(read_back=False, seconds=0.0 if is_in_doubt else 1.0)
    box.claims.ask(1, "r", False)
    box.turn(LEASE + 1.0 if is_in_doubt else 0.1)
    box.read(ClaimMessage("b", taken=["r"], begun=["r"]))
    for _ in range(20):
        box.turn(5.0)
    assert box.claims._look_ups.table.is_held_by("r", "b")
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == DENIED


def test_a_stream_that_is_held_from_before_does_not_have_the_claims_read_again() -> None:
    box = Box()
    box.take()
    assert box.ask() == GRANTED
    box.run(200.0)
    look_up(box, 2, 0.0)
    box.claims.read(box.now, ClaimsRead(b"", is_start=True))
    box.run(1.0)
    assert box.reading == [pytest.approx(MARGIN, abs=1.0)]


def test_for_a_message_that_came_while_claims_were_off_they_are_read_from_before_its_publication_on() -> None:
    """Another node may have claimed it long before this one has got it."""
    box = Box(is_open=False)
    box.claims.take(Received(None, (1, 1, 0, -1), b"", 0.0, 300.0, box.now, 1), 1, "r")
    box.claims.opened(ClaimsOpened())
    box.claims.ask(1, "r", False)
    box.turn()
    assert box.reading == [pytest.approx(300.0 + MARGIN, abs=1.0)]


@pytest.mark.parametrize("is_found", [True, False])
def test_in_doubt_the_claims_of_a_task_that_was_looked_up_are_read_from_before_its_publication_on(
    is_found: bool,
) -> None:
    """It may have been another node's before: without the claim of that one, a takeover of it counts for nothing."""
    box = Box()
    look_up(box, 1, 300.0)
    box.store(read_back=is_found)
    if not is_found:
        box.turn(LOOK_UP_LIMIT)
    assert len(box.claims.found(box.now)) == 1
    box.run(READ_ON + 2.0)
    box.turn(LEASE + 1.0)
    *_, last = box.reading
    assert last == pytest.approx(300.0 + READ_ON + LEASE + MARGIN, abs=15.0)


def test_for_an_older_message_the_claims_are_read_again() -> None:
    box = Box()
    look_up(box, 1, 0.0)
    look_up(box, 2, 2 * KEPT)
    look_up(box, 3, 2 * KEPT)
    assert box.reading == [pytest.approx(MARGIN, abs=1.0), pytest.approx(2 * KEPT + MARGIN, abs=1.0)]
    box.read(ClaimMessage("b", recorded=["r2"]))
    box.run(1.0)
    found = [(each.number, each.finding) for each in box.claims.found(box.now)]
    assert (2, Finding.ENDED) in found
    assert (1, Finding.SERVE) in found


def test_claims_that_the_broker_may_have_deleted_are_not_read() -> None:
    box = Box()
    look_up(box, 1, 1e9)
    look_up(box, 2, 1e9)
    assert box.reading == [KEPT + STORED_BEYOND]
    assert STORED_BEYOND <= claims_topic.TRIM_MARGIN


def test_what_was_read_from_early_on_is_read_again_once_it_is_forgotten() -> None:
    box = Box()
    look_up(box, 1, 2 * KEPT)
    while box.now < 101.0 + KEPT:
        look_up(box, 2, 0.0)
        box.run(READ_ON / 2)
    assert len(box.reading) == 1
    look_up(box, 3, 2 * KEPT)
    assert box.reading == [pytest.approx(2 * KEPT + MARGIN, abs=1.0)] * 2


def test_a_reader_that_is_made_anew_too_late_for_a_message_that_waits_decides_nothing() -> None:
    """It begins with what is remembered; the claim of the node that has the task may be older (seed 121005265)."""
    box = Box()
    alive = ClaimMessage("b")
    look_up(box, 1, 0.0)
    box.read(ClaimMessage("b", taken=["r1"]))
    until = box.now + KEPT + MARGIN
    while box.now < until:
        box.read(alive)
        box.run(1.0)
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.HELD]
    published = [ClaimMessage("me", serial=1000)]  # all marks
    box.claims.read(box.now, ClaimsRead(b"", is_start=True))
    box.read(*published)
    box.run(0.5)
    assert box.claims.found(box.now) == []
    assert box.reading == [pytest.approx(MARGIN, abs=1.0), pytest.approx(KEPT + 2 * MARGIN, abs=5.0)]
