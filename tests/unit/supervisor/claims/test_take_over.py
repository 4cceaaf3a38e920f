"""Who holds a task when a node takes it over from one that it has suspected."""

from __future__ import annotations

import pytest

from supervisor.claims.table import ClaimMessage, ClaimState
from tests.unit.supervisor.claims.tables import (
    BEGUN,
    ENDED,
    RECORDED,
    RELEASED,
    SUSPICION,
    TAKE_OVER,
    TAKEN,
    holder,
    state,
    table_of,
)


def test_an_ended_task_that_is_taken_over_stays_ended() -> None:
    claim = table_of(TAKEN, BEGUN, ENDED, SUSPICION, TAKE_OVER).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.ENDED, "a")


def test_a_task_is_taken_over_from_a_node_that_was_suspected_before_and_has_been_silent_since() -> None:
    table = table_of(TAKEN, SUSPICION, TAKE_OVER)
    claim = table.get("r")
    assert claim is not None
    assert (claim.holder, claim.supersedes, claim.state) == ("b", "a", ClaimState.TAKEN)


def test_who_takes_a_begun_stream_over_knows_that_it_has_begun() -> None:
    assert state(table_of(BEGUN, SUSPICION, TAKE_OVER)) is ClaimState.BEGUN


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([TAKEN, TAKE_OVER], id="nobody has suspected it"),
        pytest.param([TAKEN, ClaimMessage("c", suspects=["a"]), TAKE_OVER], id="only another has suspected it"),
        pytest.param([TAKEN, SUSPICION, ClaimMessage("a"), TAKE_OVER], id="it has given a sign of life since"),
        pytest.param([RECORDED, SUSPICION, TAKE_OVER], id="its record is stored"),
        pytest.param(
            [TAKEN, SUSPICION, ClaimMessage("b", takes=[("r", "c")])], id="the task is not that node's"
        ),
        pytest.param([TAKEN, ClaimMessage("b", suspects=["a"]), ClaimMessage("a", begun=["r"]), TAKE_OVER], id="begun"),
    ],
)  # fmt: skip
def test_a_task_is_not_taken_over(messages: list[ClaimMessage]) -> None:
    assert holder(table_of(*messages)) == "a"


def test_of_two_that_take_a_task_over_the_first_gets_it() -> None:
    both = [SUSPICION, ClaimMessage("c", suspects=["a"])]
    assert holder(table_of(TAKEN, *both, TAKE_OVER, ClaimMessage("c", takes=[("r", "a")]))) == "b"


def test_a_node_that_comes_back_does_not_change_what_was_taken_over() -> None:
    table = table_of(TAKEN, SUSPICION, TAKE_OVER, TAKEN, BEGUN, ENDED, RELEASED)
    assert (holder(table), state(table)) == ("b", ClaimState.TAKEN)


def test_a_suspicion_and_a_take_over_in_one_message_is_valid_in_this_order() -> None:
    """The one who takes over waits for LIFE between them; the table only checks their order."""
    assert holder(table_of(TAKEN, ClaimMessage("b", suspects=["a"], takes=[("r", "a")]))) == "b"


def test_a_task_that_was_taken_over_is_kept_as_long_as_a_new_one() -> None:
    table = table_of(TAKEN, ClaimMessage("a", taken=["later"]), SUSPICION, TAKE_OVER)
    table.forget_before(1.5)
    assert (holder(table), holder(table, "later"), len(table)) == ("b", None, 1)


def test_a_reader_forgets_who_suspected_whom_when_a_sign_of_life_comes() -> None:
    table = table_of(TAKEN, SUSPICION)
    assert table.is_suspected("a", "b")
    assert not table.is_suspected("b", "a")
    table.apply(ClaimMessage("a"), 3.0)
    assert not table.is_suspected("a", "b")
