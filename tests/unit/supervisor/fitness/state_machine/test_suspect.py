"""supervisor/fitness/state_machine.py: a node of which one task was refused."""

from __future__ import annotations

from supervisor.fitness import Admit, FitnessStateMachine, Verdict
from supervisor.states import FitnessState, Intake
from tests.unit.supervisor.fitness.state_machine.machines import (
    EXPLAIN,
    FIREWALL,
    answer,
    fail,
    suspect,
    unfit,
)


def test_a_suspect_node_reports_nothing_and_tries_a_few_tasks_at_once() -> None:
    fitness = suspect(100.0)
    assert (fitness.state, fitness.reports()) == (FitnessState.SUSPECT, [])
    assert "403" in fitness.status(100.0).reason
    for number in range(3):
        moment = 100.1 + number / 10
        assert fitness.gate(moment).allowed > 0
        assert fitness.admit(moment, request_id=str(number)).admit is Admit.RUN
    assert (fitness.gate(100.5).intake, fitness.gate(100.5).allowed) == (Intake.OPEN, 0)
    assert fitness.gate(101.4).allowed > 0  # upstream seldom takes that long to refuse
    assert fitness.next_tick(100.5) < 101


def test_a_refused_task_is_decided_as_soon_as_another_is_answered() -> None:
    fitness = suspect(100.0)
    assert fitness.verdict("one") is Verdict.OPEN
    answer(fitness, 100.5)
    assert fitness.verdict("one") is Verdict.AGAIN
    fail(fitness, 100.6, FIREWALL)
    assert (fitness.verdict("one"), fitness.state, fitness.reports()) == (Verdict.TASK, FitnessState.FIT, [])


def test_all_refused_tasks_are_the_nodes_once_it_is_unfit() -> None:
    assert unfit(FIREWALL).verdict("task 0") is Verdict.NODE


def test_a_suspicion_without_any_other_evidence_ends() -> None:
    fitness = suspect(100.0)
    fitness.tick(109.9)
    assert fitness.state is FitnessState.SUSPECT
    fitness.tick(110.1)
    assert (fitness.state, fitness.reports()) == (FitnessState.FIT, [])


def test_only_a_suspect_node_checks_itself() -> None:
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    assert not fitness.takes_self_check(100.0)
    fail(fitness, 100.0, FIREWALL)
    assert not fitness.takes_self_check(100.1)
    assert fitness.takes_self_check(100.3)
    assert not fitness.takes_self_check(100.4)
