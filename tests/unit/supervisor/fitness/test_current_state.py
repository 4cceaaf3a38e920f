"""The state of fitness: what moves it, and what people get to know of that."""

from __future__ import annotations

import pytest

from supervisor.fitness.current_state import CurrentState
from supervisor.fitness.decisions import Begin, Change, End
from supervisor.states import FitnessState
from workernode.protocol import FaultInfo, FaultKind

KEY = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "")
QUOTA = FaultInfo(FaultKind.QUOTA, 429, "insufficient_quota", "")
LIMIT = FaultInfo(FaultKind.RATE_LIMIT, 429, "", "")


def made() -> CurrentState:
    return CurrentState(lambda fault: f"explained: {fault.code}")


def test_a_change_is_logged_once() -> None:
    current = made()
    current.move(1.0, "refused", KEY)
    assert current.changes() == [Change(FitnessState.UNFIT, "explained: invalid_api_key")]
    assert current.changes() == []


def test_a_suspicion_is_explained_as_one() -> None:
    current = made()
    current.move(1.0, "suspected", KEY)
    assert current.reason.startswith("upstream refused a task (401 invalid_api_key)")


def test_a_limit_that_lasted_counts_from_its_first_refusal() -> None:
    current = made()
    current.move(1.0, "limited", LIMIT)
    current.move(300.0, "lasted", LIMIT)
    assert (current.state, current.since) == (FitnessState.UNFIT, 1.0)


def test_the_fault_that_was_reported_last_is_the_reason_and_is_the_one_that_ends() -> None:
    current = made()
    current.move(1.0, "refused", KEY)
    current.report(KEY)
    current.end_report()
    current.report(QUOTA)
    assert current.reason == "explained: insufficient_quota"
    current.end_report()
    assert [(type(one), one.key) for one in current.reports()] == [
        (Begin, "key"), (End, "key"), (Begin, "quota"), (End, "quota"),
    ]  # fmt: skip
    assert current.reports() == []


def test_a_node_that_is_fit_again_has_no_reason() -> None:
    current = made()
    current.move(1.0, "refused", KEY)
    current.end(2.0, "answered", "upstream answers again")
    assert (current.state, current.reason, current.since) == (FitnessState.FIT, "", 2.0)
    assert current.changes()[-1] == Change(FitnessState.FIT, "upstream answers again")


def test_a_move_that_is_no_arrow_is_a_bug() -> None:
    with pytest.raises(KeyError):
        made().move(1.0, "cleared", KEY)
