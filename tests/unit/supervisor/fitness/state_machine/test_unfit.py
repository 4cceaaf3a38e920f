"""supervisor/fitness/state_machine.py: a node that upstream refuses."""

from __future__ import annotations

import pytest

from supervisor.events import SelfChecked
from supervisor.fitness import Admission, Admit, Begin, End, FitnessStateMachine, Verdict
from supervisor.fitness.half_open import FIRST_INTERVAL, FRESH, LONGEST_INTERVAL
from supervisor.fitness.transitions import REASONS
from supervisor.states import FitnessState, Intake
from tests.unit.supervisor.fitness.state_machine.machines import (
    ADDRESS,
    CERTIFICATE,
    EXPLAIN,
    FIREWALL,
    KEY,
    MODEL,
    QUOTA,
    answer,
    fail,
    fail_all,
    limited,
    made,
    probe,
    refuse,
    unfit,
)
from workernode.protocol import (
    FaultInfo,
    FaultKind,
)


@pytest.mark.parametrize(
    "trouble", [KEY, QUOTA, MODEL, ADDRESS, CERTIFICATE, FIREWALL], ids=lambda trouble: str(trouble.kind.value)
)
def test_what_all_tasks_are_refused_with_makes_the_node_unfit_and_is_reported_once(trouble: FaultInfo) -> None:
    fitness = made()
    for number in range(50):
        fail(fitness, 100.0 + number / 100, trouble, str(number))
    assert fitness.state is FitnessState.UNFIT
    (report,) = fitness.reports()
    assert report == Begin(trouble.kind.value, REASONS[trouble.kind], EXPLAIN(trouble))
    assert fitness.reports() == []


def test_a_self_check_that_is_refused_at_the_start_makes_the_node_unfit() -> None:
    fitness = made()
    fitness.self_checked(1.5, SelfChecked(1.4, KEY))
    assert (fitness.state, fitness.fault) == (FitnessState.UNFIT, KEY)
    assert len(fitness.reports()) == 1


def test_a_self_check_that_is_refused_before_a_task_is_answered_proves_nothing() -> None:
    fitness = made()
    answer(fitness, 1.45)
    fitness.self_checked(1.5, SelfChecked(1.4, KEY))
    assert fitness.state is FitnessState.FIT


def test_several_poisoned_tasks_at_once_leave_a_node_fit_whose_self_check_is_answered() -> None:
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    fail_all(fitness, 100.0, FIREWALL, tasks=8)
    assert fitness.state is FitnessState.SUSPECT
    assert fitness.takes_self_check(100.3)
    fitness.self_checked(100.4, SelfChecked(100.3))
    fail_all(fitness, 100.5, FIREWALL, tasks=8)
    assert {fitness.verdict(f"task {number}") for number in range(8)} == {Verdict.TASK}
    assert (fitness.state, fitness.reports()) == (FitnessState.FIT, [])


def test_half_open_one_task_is_tried_and_the_others_go_back_with_the_reason() -> None:
    fitness = unfit()
    assert fitness.gate(100.0).intake is Intake.ONE_AT_A_TIME
    assert fitness.admit(100.0) == Admission(Admit.SEND_BACK, KEY)
    assert fitness.admit(101.0) == Admission(Admit.PROBE)
    assert fitness.admit(101.5) == Admission(Admit.SEND_BACK, KEY)  # one at a time


def test_probes_come_at_growing_intervals_from_one_second_to_a_minute() -> None:
    fitness, now, probes = unfit(now=0.0), 0.0, []
    while now < 600:
        if fitness.admit(now).admit is Admit.PROBE:
            probes.append(now)
            fitness.ended(now, now, KEY, upstream_answered=False, was_probe=True)
        now += 0.25
    gaps = [after - before for before, after in zip([0.0, *probes], probes, strict=False)]
    assert gaps[:7] == [FIRST_INTERVAL, 2, 4, 8, 16, 32, LONGEST_INTERVAL]
    assert set(gaps[6:]) == {LONGEST_INTERVAL}


def test_a_probe_that_succeeds_restores_and_says_how_long_it_lasted() -> None:
    fitness = unfit(QUOTA, now=100.0)
    probe(fitness, 101.0, QUOTA)
    fitness.changes()
    fitness.reports()
    probe(fitness, 104.5, None, well=True)
    (change,) = fitness.changes()
    assert change.state is FitnessState.FIT
    assert "after 4.5 s and 2 probes" in change.text
    assert "insufficient_quota" in change.text
    assert fitness.reports() == [End("quota")]
    assert fitness.admit(104.5) == Admission(Admit.RUN)
    assert fitness.fault is None


@pytest.mark.parametrize("trouble", [None, FaultInfo(FaultKind.CLIENT, 400, "invalid_request_error", "")])
def test_after_a_probe_without_evidence_the_next_task_is_the_probe(trouble: FaultInfo | None) -> None:
    fitness = unfit(now=100.0)
    probe(fitness, 101.0, trouble)
    assert fitness.state is FitnessState.UNFIT
    assert fitness.admit(101.1).admit is Admit.PROBE


def test_a_probe_that_fails_otherwise_keeps_the_reason() -> None:
    fitness = unfit(KEY, now=100.0)
    fitness.reports()
    probe(fitness, 101.0, FaultInfo(FaultKind.PASSING, 503, "", ""))
    assert (fitness.state, fitness.fault, fitness.reports()) == (FitnessState.UNFIT, KEY, [])
    assert fitness.admit(102.0).admit is Admit.SEND_BACK


def test_a_probe_that_finds_another_reason_reports_that_instead() -> None:
    fitness = unfit(KEY, now=100.0)
    fitness.reports()
    probe(fitness, 101.0, QUOTA)
    assert [type(report) for report in fitness.reports()] == [End, Begin]
    assert "quota" in fitness.status(101.0).reason


def test_a_probe_that_meets_a_short_limit_is_not_reported_as_such() -> None:
    fitness = unfit(KEY, now=100.0)
    fitness.reports()
    refuse(fitness, 101.0)
    probe(fitness, 102.0, FaultInfo(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", ""))
    assert (fitness.fault, fitness.reports()) == (KEY, [])


def test_a_probe_without_a_result_counts_as_lost() -> None:
    fitness = unfit(now=0.0)
    assert fitness.admit(1.0).admit is Admit.PROBE
    assert fitness.admit(300.0).admit is Admit.SEND_BACK
    assert fitness.admit(602.0).admit is Admit.PROBE


def test_answers_of_tasks_that_were_under_way_do_not_restore_an_unfit_node() -> None:
    fitness = unfit(now=100.0)
    answer(fitness, 100.5, asked=99.0)
    assert fitness.state is FitnessState.UNFIT


def test_a_failure_from_before_it_was_restored_does_not_make_it_unfit_again() -> None:
    fitness = unfit(now=100.0)
    probe(fitness, 101.0, None, well=True)
    for number in range(9):
        fitness.ended(102.0, 99.5, KEY, upstream_answered=False, was_probe=False, request_id=str(number))
    assert fitness.state is FitnessState.FIT


def test_fresh_tasks_are_left_to_fit_nodes_and_clients_of_old_ones_get_the_error_quickly() -> None:
    fitness = unfit(now=100.0)
    fitness.admit(100.0, age=0.1)
    assert fitness.gate(100.0).allowed == 0
    assert fitness.gate(100.0).again_at == pytest.approx(100.2)
    assert fitness.gate(100.2).allowed == 1
    fitness.admit(100.2, age=FRESH + 1)
    assert fitness.gate(100.2).allowed == 1


def test_people_see_since_when_why_what_was_tried_and_when_it_is_tried_again() -> None:
    fitness = unfit(now=100.0)
    probe(fitness, 101.0, KEY)
    status = fitness.status(101.5)
    assert (status.state, status.since, status.tried, status.next_probe_at) == (FitnessState.UNFIT, 100.0, 1, 103.0)
    assert "401 invalid_api_key" in status.reason
    assert status.hold_until is None


def test_people_see_a_hold() -> None:
    fitness = limited(100.0)
    assert fitness.status(100.5).hold_until == 101.0
    assert fitness.status(101.5).hold_until is None
