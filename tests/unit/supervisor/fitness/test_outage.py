"""supervisor/fitness/outage.py: when upstream counts as away."""

from __future__ import annotations

import pytest

from supervisor.events import SelfChecked
from supervisor.fitness.outage import ENOUGH, Outage
from workernode.protocol import FaultInfo, FaultKind

KINDS = list(ENOUGH)


@pytest.mark.parametrize("kind", KINDS)
def test_upstream_is_away_after_a_few_tasks_that_failed_one_after_the_other(kind: FaultKind) -> None:
    outage, fault = Outage(), FaultInfo(kind, 503, "", "")
    results = [outage.failed(str(number), number, fault) for number in range(ENOUGH[kind])]
    assert results == [False] * (ENOUGH[kind] - 1) + [True]


@pytest.mark.parametrize("kind", KINDS)
def test_one_task_that_fails_again_and_again_proves_nothing(kind: FaultKind) -> None:
    outage, fault = Outage(), FaultInfo(kind, 503, "", "")
    assert not any(outage.failed("the same", number, fault) for number in range(100))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_between_starts_the_count_anew(kind: FaultKind) -> None:
    outage, fault = Outage(), FaultInfo(kind, 503, "", "")
    for number in range(100):
        assert not outage.failed(str(number), number, fault)
        outage.answered(number + 0.5)


def test_a_failure_of_a_call_that_was_asked_before_the_newest_answered_one_proves_nothing() -> None:
    outage = Outage()
    outage.answered(10.0)
    fault = FaultInfo(FaultKind.UNAVAILABLE, 0, "", "")
    assert not any(outage.failed(str(number), 9.0, fault) for number in range(100))


@pytest.mark.parametrize("kind", sorted(set(FaultKind) - set(KINDS), key=lambda kind: kind.value))
def test_other_faults_are_no_outage(kind: FaultKind) -> None:
    outage = Outage()
    assert not any(outage.failed(str(number), number, FaultInfo(kind, 0, "", "")) for number in range(100))


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_self_check_can_be_made_it_decides_whether_upstream_is_away(kind: FaultKind) -> None:
    outage, fault = Outage(can_check=True), FaultInfo(kind, 503, "", "")
    for number in range(ENOUGH[kind]):
        assert outage.suspected is None
        assert not outage.failed(str(number), number, fault)
    assert outage.suspected == fault
    assert outage.self_checked(SelfChecked(10.0, FaultInfo(FaultKind.PASSING, 0, "", "no answer"))) == fault
    assert outage.suspected is None


@pytest.mark.parametrize("shown", [None, *sorted(set(FaultKind) - set(KINDS), key=lambda kind: kind.value)])
def test_a_self_check_that_gets_any_answer_shows_that_upstream_is_there(shown: FaultKind | None) -> None:
    outage, fault = Outage(can_check=True), FaultInfo(FaultKind.UNAVAILABLE, 503, "", "")
    for number in range(ENOUGH[FaultKind.UNAVAILABLE]):
        outage.failed(str(number), number, fault)
    assert outage.self_checked(SelfChecked(10.0, FaultInfo(shown, 400, "", "") if shown else None)) is None
    assert not outage.has_failures
    assert not outage.failed("asked before the self-check", 9.0, fault)


@pytest.mark.parametrize("kind", KINDS)
def test_single_failed_calls_of_most_tasks_that_run_make_a_self_check_due(kind: FaultKind) -> None:
    outage, fault = Outage(can_check=True), FaultInfo(kind, 503, "", "")
    for number in range(ENOUGH[kind]):
        assert outage.suspected is None
        outage.call_failed(str(number), number, fault, number + 1)
    assert outage.suspected == fault


@pytest.mark.parametrize("kind", KINDS)
def test_an_upstream_that_fails_with_one_call_in_three_is_not_suspected(kind: FaultKind) -> None:
    outage, fault = Outage(can_check=True), FaultInfo(kind, 503, "", "")
    for number in range(20):
        outage.call_failed(str(number), number, fault, 3 * (number + 1))
    assert outage.suspected is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_clears_single_failed_calls(kind: FaultKind) -> None:
    outage, fault = Outage(can_check=True), FaultInfo(kind, 503, "", "")
    for number in range(100):
        outage.call_failed(str(number), number, fault, 1)
        assert outage.has_failures
        assert outage.suspected is None
        outage.answered(number + 0.5)
        assert not outage.has_failures
