"""supervisor/fitness/state_machine.py: a node whose upstream serves nobody, and what shows that it serves again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from supervisor.events import SelfChecked
from supervisor.fitness import Admit, Begin, FitnessStateMachine
from supervisor.fitness.state_machine import LONGEST_CLOSED
from supervisor.states import FitnessState, Intake
from tests.unit.supervisor.fitness.state_machine.machines import (
    BOOM,
    EXPLAIN,
    FIREWALL,
    KEY,
    LOADING,
    QUOTA,
    answer,
    away,
    fail,
    fail_all,
    limited,
    made,
    probe,
    suspect,
    unfit,
)
from workernode.protocol import (
    LONGEST_WAIT_FOR_UPSTREAM,
    CallFailed,
    FaultInfo,
)


def test_a_node_whose_upstream_is_away_closes_its_intake_and_tries_one_task_at_growing_intervals() -> None:
    fitness = away(100.0)
    assert (fitness.state, fitness.reports()) == (FitnessState.AWAY, [])
    assert (fitness.gate(100.0).intake, fitness.gate(100.0).again_at) == (Intake.HOLD, 101.0)
    assert (fitness.gate(101.0).intake, fitness.gate(101.0).allowed) == (Intake.ONE_AT_A_TIME, 1)
    probe(fitness, 101.0, LOADING)
    assert (fitness.gate(101.5).intake, fitness.gate(101.5).again_at) == (Intake.HOLD, 103.0)


def test_failed_calls_close_the_intake_before_their_tasks_have_ended_and_forbid_retries() -> None:
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    for number in range(3):
        assert not fitness.takes_self_check(100.0)
        fitness.call_failed(100.0, CallFailed(f"task {number}", 99.9, LOADING), running=3)
    assert fitness.takes_self_check(100.0)
    assert (fitness.state, fitness.hold.no_retries) == (FitnessState.FIT, False)
    fitness.self_checked(100.0, SelfChecked(100.0, LOADING))
    assert (fitness.state, fitness.hold.no_retries, fitness.reports()) == (FitnessState.AWAY, True, [])
    probe(fitness, 101.0, None, well=True)
    assert (fitness.state, fitness.hold.no_retries) == (FitnessState.FIT, False)
    for number in range(3):  # asked before it was well again
        fitness.call_failed(101.1, CallFailed(f"task {number}", 100.9, LOADING), running=3)
    assert fitness.state is FitnessState.FIT


def test_several_tasks_of_which_each_makes_upstream_fail_do_not_close_the_intake() -> None:
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    for number in range(8):
        fitness.call_failed(100.0, CallFailed(f"task {number}", 99.9, LOADING), running=8)
    assert fitness.takes_self_check(100.0)
    fitness.self_checked(100.1, SelfChecked(100.0))
    assert (fitness.state, fitness.hold.no_retries) == (FitnessState.FIT, False)


@pytest.mark.parametrize("fault", [LOADING, BOOM], ids=lambda fault: fault.kind.value)
def test_several_tasks_that_fail_for_good_do_not_close_the_intake_of_a_node_whose_self_check_is_answered(
    fault: FaultInfo,
) -> None:
    """Each of them makes upstream fail, and nothing else is answered between."""
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    for round_at in (100.0, 110.0, 120.0):
        fail_all(fitness, round_at, fault, tasks=8)
        assert fitness.takes_self_check(round_at)
        assert fitness.state is FitnessState.FIT
        fitness.self_checked(round_at + 0.1, SelfChecked(round_at + 0.05))
        assert (fitness.state, fitness.gate(round_at + 0.1).intake) == (FitnessState.FIT, Intake.OPEN)


@pytest.mark.parametrize("fault", [LOADING, BOOM], ids=lambda fault: fault.kind.value)
def test_tasks_that_fail_close_the_intake_when_the_self_check_fails_too(fault: FaultInfo) -> None:
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    fail_all(fitness, 100.0, fault, tasks=5)
    assert fitness.takes_self_check(100.0)
    fitness.self_checked(100.1, SelfChecked(100.0, LOADING))
    assert (fitness.state, fitness.fault) == (FitnessState.AWAY, fault)
    assert not fitness.takes_self_check(110.0)


@pytest.mark.parametrize(("timeout", "closed_for"), [(20.0, 5.0), (300.0, LONGEST_CLOSED)])
def test_clients_get_their_error_within_their_time_while_upstream_is_away(timeout: float, closed_for: float) -> None:
    fitness = FitnessStateMachine(64, EXPLAIN, task_timeout=timeout)
    fail_all(fitness, 100.0, LOADING)
    probe(fitness, 101.0, LOADING)
    assert fitness.gate(99.9 + closed_for).intake is Intake.ONE_AT_A_TIME  # a probe
    probe(fitness, 99.9 + closed_for, LOADING)
    assert fitness.gate(100.0 + closed_for).intake is Intake.ONE_AT_A_TIME
    assert fitness.admit(100.0 + closed_for).admit is Admit.SEND_BACK


@pytest.mark.parametrize("begin", [suspect, limited, away, unfit], ids=lambda begin: begin.__name__)
def test_a_stream_that_was_asked_later_and_has_begun_shows_that_upstream_serves(
    begin: Callable[[], FitnessStateMachine],
) -> None:
    fitness = begin()
    assert fitness.hold.reports_begun
    fitness.answer_begun(103.0, asked_at=99.5)
    assert fitness.state is not FitnessState.FIT
    fitness.answer_begun(103.0, asked_at=102.0)
    assert (fitness.state, fitness.hold.reports_begun) == (FitnessState.FIT, False)


def test_a_stream_that_has_begun_starts_the_count_of_failures_anew() -> None:
    fitness = made()
    for number in range(20):
        fail(fitness, 100.0 + number, LOADING, f"task {number}")
        assert fitness.hold.reports_begun
        fitness.answer_begun(100.6 + number, asked_at=100.5 + number)
        assert not fitness.hold.reports_begun
    assert fitness.state is FitnessState.FIT


@pytest.mark.parametrize("fault", [LOADING, QUOTA], ids=["away", "unfit"])
def test_a_probe_with_a_long_answer_does_not_keep_the_intake_closed(fault: FaultInfo) -> None:
    """A self-check is made beside it."""
    fitness = FitnessStateMachine(64, EXPLAIN, can_check=True)
    fail_all(fitness, 100.0, fault)
    assert fitness.takes_self_check(100.0)
    fitness.self_checked(100.1, SelfChecked(100.0, fault))
    assert fitness.admit(101.1).admit is Admit.PROBE
    assert not fitness.takes_self_check(102.0)
    assert fitness.takes_self_check(102.1)
    fitness.self_checked(102.2, SelfChecked(102.1, LOADING))
    assert fitness.gate(102.2).intake is not Intake.OPEN
    assert not fitness.takes_self_check(104.0)
    assert fitness.takes_self_check(104.1)
    fitness.self_checked(104.3, SelfChecked(104.2))
    assert (fitness.state, fitness.gate(104.3).intake) == (FitnessState.FIT, Intake.OPEN)


def test_a_self_check_that_was_sent_before_the_intake_closed_does_not_open_it() -> None:
    fitness = away(100.0)
    fitness.self_checked(100.5, SelfChecked(99.5))
    assert fitness.state is FitnessState.AWAY


def test_a_probe_that_has_begun_and_breaks_afterwards_does_not_close_the_intake_again() -> None:
    fitness = away(100.0)
    assert fitness.admit(101.0).admit is Admit.PROBE
    fitness.answer_begun(101.5, asked_at=101.0)
    fitness.ended(120.0, 101.0, LOADING, upstream_answered=False, was_probe=True, request_id="probe")
    assert (fitness.state, fitness.gate(120.0).intake) == (FitnessState.FIT, Intake.OPEN)


def test_an_outage_is_reported_when_it_lasts_over_a_minute() -> None:
    fitness = away(100.0)
    fitness.tick(100.0 + LONGEST_WAIT_FOR_UPSTREAM)
    assert fitness.reports() == []
    fitness.tick(100.1 + LONGEST_WAIT_FOR_UPSTREAM)
    assert fitness.reports() == [Begin("unavailable", "GeneralError", EXPLAIN(LOADING))]
    assert fitness.status(161.0).since == 100.0


def test_a_probe_that_is_refused_shows_that_upstream_is_there() -> None:
    fitness = away(100.0)
    probe(fitness, 101.0, FIREWALL)
    assert fitness.state is FitnessState.SUSPECT
    assert fitness.reports() == []


def test_an_answer_to_a_call_that_was_asked_meanwhile_ends_an_outage() -> None:
    fitness = away(100.0)
    for asked, state in ((99.0, FitnessState.AWAY), (101.0, FitnessState.FIT)):
        answer(fitness, 102.0, asked=asked)
        assert fitness.state is state


@pytest.mark.parametrize("lasted", [5.0, LONGEST_WAIT_FOR_UPSTREAM + 1.0], ids=["away", "unfit"])
def test_a_local_model_that_is_ready_again_ends_an_outage(lasted: float) -> None:
    fitness = away(100.0)
    fitness.tick(100.0 + lasted)
    fitness.upstream_started(100.0 + lasted)
    assert fitness.state is FitnessState.FIT
    for number in range(9):  # asked before the start, and failed only now
        fitness.ended(
            101.0 + lasted, 99.0 + lasted, LOADING, upstream_answered=False, was_probe=False, request_id=str(number)
        )
    assert fitness.state is FitnessState.FIT


def test_a_local_model_that_is_ready_again_makes_no_refused_key_good() -> None:
    fitness = FitnessStateMachine(64, EXPLAIN)
    fitness.self_checked(100.0, SelfChecked(99.9, KEY))
    assert fitness.state is FitnessState.UNFIT
    fitness.upstream_started(101.0)
    assert fitness.state is FitnessState.UNFIT
