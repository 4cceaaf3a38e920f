"""Who holds a task, and what is known of it, when a node has given it back: released, withdrawn or unended."""

from __future__ import annotations

import pytest

from supervisor.claims.table import ClaimMessage, ClaimState
from tests.unit.supervisor.claims.tables import (
    BEGUN,
    ENDED,
    RELEASED,
    SUSPICION,
    TAKE_OVER,
    TAKEN,
    UNENDED,
    WITHDRAWN,
    holder,
    state,
    table_of,
)


@pytest.mark.parametrize("given_back", [RELEASED, ClaimMessage("a", withdrawn=["r"])])
def test_a_beginning_that_is_reported_late_changes_nothing_once_the_task_was_given_back(
    given_back: ClaimMessage,
) -> None:
    table = table_of(TAKEN, given_back, ClaimMessage("c", taken=["r"]), BEGUN)
    assert (holder(table), state(table)) == ("c", ClaimState.TAKEN)


def test_a_task_that_was_given_back_is_known_to_have_been_at_a_node() -> None:
    table = table_of(TAKEN, WITHDRAWN, ClaimMessage("b", taken=["r"]))
    claim = table.get("r")
    assert claim is not None
    assert claim.was_given_back
    assert not claim.supersedes


def test_a_released_task_belongs_to_the_next_that_claims_it() -> None:
    assert holder(table_of(TAKEN, RELEASED, ClaimMessage("b", taken=["r"]))) == "b"


def test_who_claims_a_begun_stream_that_was_given_back_knows_that_it_has_begun() -> None:
    table = table_of(TAKEN, BEGUN, RELEASED)
    assert (holder(table), state(table)) == ("", ClaimState.BEGUN)
    table.apply(ClaimMessage("b", taken=["r"]), 0.0)
    assert (holder(table), state(table)) == ("b", ClaimState.BEGUN)


@pytest.mark.parametrize("before", [[TAKEN], [TAKEN, BEGUN], [TAKEN, BEGUN, ENDED]])
def test_a_task_of_which_nothing_has_left_can_be_withdrawn_whatever_was_announced(before: list[ClaimMessage]) -> None:
    assert (holder(table_of(*before, WITHDRAWN)), state(table_of(*before, WITHDRAWN))) == ("", ClaimState.TAKEN)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([TAKEN, BEGUN, SUSPICION, TAKE_OVER], id="taken over"),
        pytest.param([TAKEN, BEGUN, SUSPICION, TAKE_OVER, ClaimMessage("b", ended=["r"])], id="about to be ended"),
        pytest.param([TAKEN, BEGUN, RELEASED, ClaimMessage("b", taken=["r"])], id="given back before"),
    ],
)
def test_a_stream_that_another_node_had_begun_stays_begun_when_it_is_withdrawn(before: list[ClaimMessage]) -> None:
    """Nothing has left this node, but its client has seen a part: whoever claims it next ends it."""
    table = table_of(*before, ClaimMessage("b", withdrawn=["r"]), ClaimMessage("c", taken=["r"]))
    claim = table.get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("c", ClaimState.BEGUN, "b")


def test_a_task_that_was_taken_over_before_it_had_begun_can_be_withdrawn() -> None:
    table = table_of(
        TAKEN, SUSPICION, TAKE_OVER, ClaimMessage("b", begun=["r"]), ClaimMessage("b", withdrawn=["r"])
    )  # fmt: skip
    assert (holder(table), state(table)) == ("", ClaimState.TAKEN)


@pytest.mark.parametrize("before", [[TAKEN, BEGUN], [TAKEN, BEGUN, ENDED]])
def test_a_stream_whose_end_has_not_left_is_ended_by_whoever_claims_it_next(before: list[ClaimMessage]) -> None:
    claim = table_of(*before, UNENDED, ClaimMessage("b", taken=["r"])).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.BEGUN, "a")


def test_only_the_holder_can_report_that_an_end_has_not_left() -> None:
    claim = table_of(TAKEN, BEGUN, ENDED, ClaimMessage("b", unended=["r"])).get("r")
    assert claim is not None
    assert (claim.holder, claim.state) == ("a", ClaimState.ENDED)


def test_an_end_that_is_stored_twice_stays_unended() -> None:
    """The library stores again what it has no receipt for, in order."""
    claim = table_of(TAKEN, BEGUN, ENDED, UNENDED, ENDED, UNENDED).get("r")
    assert claim is not None
    assert (claim.holder, claim.state) == ("", ClaimState.BEGUN)


def test_a_node_that_begins_a_task_which_another_had_claimed_and_gave_back_holds_it() -> None:
    """It did not read the claims, because the message was new; its own claim came while the other still held it."""
    messages = [TAKEN, ClaimMessage("b", taken=["r"]), WITHDRAWN, ClaimMessage("b", begun=["r"])]
    table = table_of(*messages)
    assert (holder(table), state(table)) == ("b", ClaimState.BEGUN)
    table = table_of(*messages, ClaimMessage("b", ended=["r"]), ClaimMessage("c", taken=["r"]))
    assert (holder(table), state(table)) == ("b", ClaimState.ENDED)


def test_a_task_that_comes_back_to_the_node_that_has_not_ended_it_stays_begun() -> None:
    """A node that stops takes and withdraws it at once, and all of it may be sent in one message."""
    message = ClaimMessage("a", taken=["r"], ended=["r"], unended=["r"], withdrawn=["r"])
    claim = table_of(TAKEN, BEGUN, message, ClaimMessage("b", taken=["r"])).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.BEGUN, "a")


def test_only_the_holder_can_withdraw_a_task() -> None:
    assert holder(table_of(TAKEN, ClaimMessage("b", withdrawn=["r"]))) == "a"
