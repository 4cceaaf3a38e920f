"""The states of the model server: every arrow of the table, and no other. What moves them is tried in tests/faults."""

from __future__ import annotations

import pytest

from supervisor.model_server.moves import MOVES, moved
from supervisor.states import ModelServerState

CAUSES = sorted({cause for _, cause in MOVES})


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("state", list(ModelServerState))
def test_it_moves_as_the_table_says_and_any_other_move_is_a_bug(state: ModelServerState, cause: str) -> None:
    if (state, cause) in MOVES:
        assert moved(state, cause) is MOVES[state, cause]
    else:
        with pytest.raises(AssertionError, match="a bug"):
            moved(state, cause)


def test_every_state_can_be_reached_and_left_and_stopped() -> None:
    for state in ModelServerState:
        assert state in MOVES.values()
        assert any(before is state and after is not state for (before, _), after in MOVES.items())
        assert (state, "stop") in MOVES


def test_only_a_server_that_takes_requests_may_fall_asleep() -> None:
    assert [state for state, cause in MOVES if cause == "sleep"] == [ModelServerState.READY]
