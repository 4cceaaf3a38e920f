"""Who holds which task after the messages of the topic, and for how long that is remembered."""

from __future__ import annotations

import pytest

from supervisor.claims.table import ClaimMessage, ClaimState, ClaimTable
from tests.unit.supervisor.claims.tables import (
    BEGUN,
    ENDED,
    RECORDED,
    RELEASED,
    SUSPICION,
    SUSPICION_OF_C,
    TAKE_OVER,
    TAKEN,
    TAKEN_OVER,
    UNENDED,
    WITHDRAWN,
    holder,
    state,
    table_of,
)


def test_the_first_claim_of_a_task_wins() -> None:
    assert holder(table_of(TAKEN, ClaimMessage("b", taken=["r"]))) == "a"


def test_a_task_that_nobody_has_claimed_has_no_holder() -> None:
    assert table_of(ClaimMessage("a", taken=["other"])).get("r") is None


@pytest.mark.parametrize("message", [BEGUN, ENDED])
def test_a_stream_that_begins_or_ends_claims_a_task_that_nobody_holds(message: ClaimMessage) -> None:
    assert holder(table_of(message, ClaimMessage("b", taken=["r"]))) == "a"


def test_the_holder_brings_its_claim_from_taken_to_begun_to_ended() -> None:
    table = ClaimTable()
    seen = []
    for message in (TAKEN, BEGUN, ENDED):
        table.apply(message, 0.0)
        seen.append(state(table))
    assert seen == [ClaimState.TAKEN, ClaimState.BEGUN, ClaimState.ENDED]


OTHERS = [ClaimMessage("b", begun=["r"]), ClaimMessage("b", ended=["r"]), ClaimMessage("b", released=["r"])]


@pytest.mark.parametrize("before", [[TAKEN, BEGUN], [ClaimMessage("c", taken=["r"]), SUSPICION_OF_C, TAKEN_OVER]])
def test_a_node_that_does_not_hold_a_task_does_not_change_it(before: list[ClaimMessage]) -> None:
    table = table_of(*before)
    was = state(table)
    for message in OTHERS:
        table.apply(message, 9.0)
    assert (holder(table), state(table)) == ("a", was)


@pytest.mark.parametrize(("message", "reached"), [(OTHERS[0], ClaimState.BEGUN), (OTHERS[1], ClaimState.ENDED)])
def test_who_has_begun_a_task_holds_it_although_another_node_had_claimed_it_before(
    message: ClaimMessage, reached: ClaimState
) -> None:
    """That node was killed at once; this one got the message so soon after that it did not read the claims."""
    table = table_of(TAKEN, ClaimMessage("b", taken=["r"]), message)
    assert (holder(table), state(table)) == ("b", reached)


def test_an_ended_task_stays_ended() -> None:
    """The library may store a message a second time when its receipt is lost."""
    assert state(table_of(TAKEN, BEGUN, ENDED, BEGUN, RELEASED, TAKEN)) is ClaimState.ENDED


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="nobody has claimed it"),
        pytest.param([TAKEN, BEGUN, ENDED], id="its node"),
        pytest.param([TAKEN, SUSPICION, TAKE_OVER], id="a node that comes back after another has taken over"),
        pytest.param([TAKEN, WITHDRAWN], id="given back"),
        pytest.param([ClaimMessage("b", taken=["r"])], id="another node has claimed it, too"),
    ],
)
def test_a_task_whose_record_is_stored_is_recorded_whoever_has_claimed_it(before: list[ClaimMessage]) -> None:
    claim = table_of(*before, RECORDED).get("r")
    assert claim is not None
    assert claim.is_recorded


def test_the_end_of_a_stream_is_no_record() -> None:
    claim = table_of(TAKEN, BEGUN, ENDED).get("r")
    assert claim is not None
    assert not claim.is_recorded


def test_a_message_that_comes_after_a_later_one_of_its_node_shows_nothing() -> None:
    """Its producer was closed before it was stored; the next one has stored it again, and more."""
    table = ClaimTable()
    assert table.apply(ClaimMessage("a", taken=["r"], serial=1), 0.0)
    assert table.apply(ClaimMessage("a", withdrawn=["r"], serial=2), 1.0)
    assert table.apply(ClaimMessage("b", suspects=["a"], serial=1), 2.0)
    assert not table.apply(ClaimMessage("a", taken=["r"], serial=1), 3.0)
    assert holder(table) == ""
    assert table.is_suspected("a", "b")


def test_a_message_that_is_stored_twice_is_a_sign_of_life_and_no_more() -> None:
    table = ClaimTable()
    message = ClaimMessage("a", taken=["r"], suspects=["b"], serial=1)
    assert table.apply(message, 0.0)
    table.apply(ClaimMessage("b", suspects=["a"], serial=1), 1.0)
    assert table.apply(message, 2.0)
    assert not table.is_suspected("a", "b")
    assert not table.is_suspected("b", "a"), "b has given a sign of life since"


def test_a_claim_is_remembered_from_its_last_change_on() -> None:
    table = ClaimTable()
    table.apply(TAKEN, 0.0)
    table.apply(BEGUN, 50.0)
    table.forget_before(50.0)
    assert state(table) is ClaimState.BEGUN


def test_claims_are_forgotten_oldest_first() -> None:
    table = table_of(*(ClaimMessage("a", taken=[each]) for each in "xyz"))
    table.forget_before(2.0)
    assert [table.get(each) is not None for each in "xyz"] == [False, False, True]


def test_a_claim_that_its_holder_publishes_again_is_kept_for_longer() -> None:
    table = ClaimTable()
    table.apply(ENDED, 0.0)
    table.apply(ClaimMessage("b", taken=["other"]), 0.0)
    table.apply(ClaimMessage("a", taken=["r"], ended=["r"]), 90.0)
    table.apply(ClaimMessage("c", taken=["other"]), 90.0)  # it is not the holder
    table.forget_before(50.0)
    assert (holder(table), state(table)) == ("a", ClaimState.ENDED)
    assert holder(table, "other") is None


LATER, LAST = ClaimMessage("b", taken=["r"]), ClaimMessage("c", taken=["r"])


@pytest.mark.parametrize(
    ("messages", "who"),
    [
        ([TAKEN, LATER, LAST], "a"),
        ([TAKEN, LATER, LAST, RELEASED], "b"),
        ([TAKEN, LATER, LAST, WITHDRAWN], "b"),
        ([TAKEN, LATER, ENDED, UNENDED], "b"),
        ([TAKEN, LATER, LATER, RELEASED, ClaimMessage("b", released=["r"])], ""),
        ([TAKEN, LATER, LAST, ClaimMessage("b", released=["r"]), RELEASED], "c"),
        ([TAKEN, LATER, LAST, ClaimMessage("b", withdrawn=["r"]), RELEASED], "c"),
        ([TAKEN, LATER, LAST, ClaimMessage("b", unended=["r"]), RELEASED], "c"),
        ([TAKEN, LATER, LAST, RELEASED, ClaimMessage("b", released=["r"])], "c"),
        ([TAKEN, LATER, LAST, ClaimMessage("c", begun=["r"]), ClaimMessage("c", released=["r"])], "b"),
        ([TAKEN, LATER, LAST, SUSPICION, TAKE_OVER, ClaimMessage("b", released=["r"])], "c"),
    ],
)
def test_who_has_claimed_a_task_while_another_held_it_gets_it_next(messages: list[ClaimMessage], who: str) -> None:
    """Such a node does not claim it again: a message that seemed new is not looked up (seed 90037963)."""
    assert holder(table_of(*messages)) == who


def test_who_gets_a_begun_stream_next_knows_that_it_has_begun() -> None:
    claim = table_of(TAKEN, LATER, BEGUN, RELEASED).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.BEGUN, "a")


def test_a_claim_that_was_given_back_and_taken_again_is_kept_as_long_as_a_new_one() -> None:
    table = table_of(TAKEN, RELEASED, LATER)
    table.forget_before(1.5)
    assert holder(table) == "b"
