"""supervisor/fitness/state_machine.py: the arrows of MOVES, and what the node may do and reports in each state."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from supervisor.events import SelfChecked
from supervisor.fitness import Admission, Admit, Begin, End, FitnessStateMachine, Verdict
from supervisor.fitness.half_open import FIRST_INTERVAL, FRESH, LONGEST_INTERVAL
from supervisor.fitness.pacing import UNPACED
from supervisor.fitness.state_machine import LONGEST_CLOSED
from supervisor.fitness.transitions import MOVES, REASONS
from supervisor.states import FitnessState, Intake
from supervisor.upstream import FaultMessages
from tests.support.paths import ROOT
from tests.support.ratelimit import Form, World, simulate
from workernode.protocol import (
    LONGEST_WAIT_FOR_UPSTREAM,
    NODE_KINDS,
    CallFailed,
    FaultInfo,
    FaultKind,
    Hold,
    RateLimitReport,
)

EXPLAIN = FaultMessages("https://api.openai.com", "gpt-4", "prod/gpt-4")
KEY = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "Incorrect API key provided: sk-***.")
QUOTA = FaultInfo(FaultKind.QUOTA, 429, "insufficient_quota", "You exceeded your current quota.")
MODEL = FaultInfo(FaultKind.MODEL, 404, "model_not_found", "The model does not exist.")
ADDRESS = FaultInfo(FaultKind.ADDRESS, 404, "", "")
CERTIFICATE = FaultInfo(FaultKind.CERTIFICATE, 0, "certificate_not_trusted", "")
FIREWALL = FaultInfo(FaultKind.REFUSED, 403, "", "")
LOADING = FaultInfo(FaultKind.UNAVAILABLE, 503, "unavailable_error", "Loading model")
BOOM = FaultInfo(FaultKind.PASSING, 500, "", "boom")


def made() -> FitnessStateMachine:
    return FitnessStateMachine(64, EXPLAIN)


def refuse(fitness: FitnessStateMachine, now: float, wait: float | None = 1.0, asked: float | None = None) -> None:
    """A call is answered 429."""
    fitness.limit_seen(now, RateLimitReport(at=now, kind=FaultKind.RATE_LIMIT, asked=asked or now, retry_after=wait))


def answer(fitness: FitnessStateMachine, now: float, asked: float | None = None) -> None:
    """A call is answered well."""
    fitness.ended(now, now if asked is None else asked, None, upstream_answered=True, was_probe=False)


def fail(fitness: FitnessStateMachine, now: float, fault: FaultInfo | None, request_id: str = "one") -> None:
    """A task ends with a fault."""
    fitness.ended(now, now, fault, upstream_answered=False, was_probe=False, request_id=request_id)


def fail_all(fitness: FitnessStateMachine, now: float, fault: FaultInfo, tasks: int = 3) -> None:
    """Several tasks end with the same fault."""
    for number in range(tasks):
        fail(fitness, now, fault, f"task {number}")


def probe(fitness: FitnessStateMachine, now: float, fault: FaultInfo | None, well: bool = False) -> None:
    """The task taken now is the probe, and ends at once."""
    assert fitness.admit(now) == Admission(Admit.PROBE)
    fitness.ended(now, now, fault, upstream_answered=well, was_probe=True, request_id="probe")


def unfit(fault: FaultInfo = KEY, now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    fail_all(fitness, now, fault)
    return fitness


def limited(now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    refuse(fitness, now)
    return fitness


def suspect(now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    fail(fitness, now, FIREWALL)
    return fitness


def away(now: float = 100.0) -> FitnessStateMachine:
    fitness = made()
    fail_all(fitness, now, LOADING)
    return fitness


# The arrows: how each state is reached, and the event that leaves it.
START: dict[FitnessState, Callable[[], FitnessStateMachine]] = {
    FitnessState.FIT: made,
    FitnessState.LIMITED: limited,
    FitnessState.SUSPECT: suspect,
    FitnessState.AWAY: away,
    FitnessState.UNFIT: unfit,
}
EVENTS: dict[str, Callable[[FitnessStateMachine], None]] = {
    "limited": lambda fitness: refuse(fitness, 110.0),
    "lifted": lambda fitness: answer(fitness, 110.0),
    "suspected": lambda fitness: fail(fitness, 105.0, KEY),
    "cleared": lambda fitness: answer(fitness, 105.0),
    "failed": lambda fitness: fail_all(fitness, 105.0, LOADING),
    "refused": lambda fitness: fitness.self_checked(105.0, SelfChecked(104.0, KEY)),
    "answered": lambda fitness: probe(fitness, 110.0, None, well=True),
}
LASTED: dict[FitnessState, Callable[[FitnessStateMachine], None]] = {
    FitnessState.LIMITED: lambda fitness: refuse(fitness, 170.0),
    FitnessState.AWAY: lambda fitness: fitness.tick(170.0),
}


@pytest.mark.parametrize(
    ("begin", "event", "end"), [(*pair, end) for pair, end in MOVES.items()],
    ids=[f"{begin.value}-{event}-{end.value}" for (begin, event), end in MOVES.items()],
)
def test_arrow(begin: FitnessState, event: str, end: FitnessState) -> None:
    fitness = START[begin]()
    fitness.changes()
    (LASTED[begin] if event == "lasted" else EVENTS[event])(fitness)
    assert fitness.state is end
    assert [change.state for change in fitness.changes()] == [end]


# FIT


def test_a_fit_node_takes_and_runs_and_reports_nothing() -> None:
    fitness = made()
    gate = fitness.gate(0.0)
    assert gate.intake is Intake.OPEN
    assert gate.allowed > 0
    assert fitness.admit(0.0) == Admission(Admit.RUN)
    assert (fitness.cap, fitness.reports(), fitness.status(0.0).reason) == (64, [], "")


def test_a_thousand_bad_requests_never_make_it_unfit() -> None:
    fitness = made()
    for number in range(1000):
        status = (400, 404, 422)[number % 3]
        fitness.admit(number / 10)
        fail(fitness, number / 10, FaultInfo(FaultKind.CLIENT, status, "invalid_request_error", "no"))
    assert fitness.state is FitnessState.FIT
    assert fitness.reports() == []


@pytest.mark.parametrize("kind", sorted(set(FaultKind) - set(NODE_KINDS), key=lambda kind: kind.value))
def test_one_fault_that_is_not_the_nodes_leaves_it_fit(kind: FaultKind) -> None:
    fitness = made()
    fail(fitness, 1.0, FaultInfo(kind, 500, "", ""))
    assert fitness.state is FitnessState.FIT


def test_after_a_thousand_calls_without_a_refusal_nothing_paces() -> None:
    fitness = made()
    for number in range(1000):
        fitness.admit(number / 1000)
    assert fitness.gate(1.0).allowed == UNPACED


def test_tasks_that_are_here_already_may_ask_no_faster_than_the_pace() -> None:
    fitness = made()
    asked = 0
    while fitness.may_ask(1.0):
        fitness.admit(1.0)
        asked += 1
    assert 1 <= asked <= 20
    assert fitness.gate(1.0).allowed == 0
    assert fitness.may_ask(fitness.gate(1.0).again_at)


def test_an_unfit_node_decides_tasks_at_once_whatever_the_pace() -> None:
    fitness = made()
    while fitness.may_ask(1.0):
        fitness.admit(1.0)
    fail(fitness, 1.0, FaultInfo(FaultKind.CERTIFICATE, 0, "certificate_not_trusted", ""))
    assert fitness.state is FitnessState.UNFIT
    assert fitness.may_ask(1.0)


# LIMITED


def test_a_429_holds_the_whole_node_until_the_limit_lifts() -> None:
    fitness = made()
    refuse(fitness, 10.0, wait=3.0)
    assert fitness.hold.until == 13.0
    gate = fitness.gate(12.9)
    assert (gate.intake, gate.allowed, gate.again_at) == (Intake.HOLD, 0, 13.0)
    assert fitness.gate(13.0).intake is Intake.OPEN


def test_the_longest_wait_of_an_episode_counts() -> None:
    fitness = made()
    refuse(fitness, 10.0, wait=3.0)
    refuse(fitness, 10.1, wait=1.0, asked=9.9)
    assert fitness.hold.until == 13.0
    refuse(fitness, 10.2, wait=5.0, asked=9.9)
    assert fitness.hold.until == 15.2


def test_those_that_were_refused_are_spread() -> None:
    fitness = made()
    refuse(fitness, 10.0)
    assert fitness.hold.spread == 0
    refuse(fitness, 10.01, asked=9.99)
    assert fitness.hold.spread > 0


def test_a_429_without_a_wait_doubles_its_guess_until_an_answer_comes() -> None:
    fitness, now, waits = made(), 10.0, []
    for _ in range(6):
        refuse(fitness, now, wait=None)
        waits.append(fitness.hold.until - now)
        now = fitness.hold.until
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 8])
    answer(fitness, now)
    refuse(fitness, now + 1, wait=None)
    assert fitness.hold.until == pytest.approx(now + 1.5)


def test_the_cap_falls_once_an_episode_however_many_429s_it_has() -> None:
    fitness = made()
    for number in range(30):
        refuse(fitness, 10.0 + number / 1000, asked=9.9)
    assert fitness.cap == 51
    refuse(fitness, 12.0)
    assert fitness.cap == 40


def test_successes_of_calls_that_were_asked_before_the_refusal_count_for_nothing() -> None:
    fitness = limited(100.0)
    for _ in range(10):
        answer(fitness, 105.0, asked=99.0)
    assert (fitness.state, fitness.cap) == (FitnessState.LIMITED, 51)
    answer(fitness, 105.0, asked=102.0)
    assert fitness.state is FitnessState.FIT
    for _ in range(20):
        answer(fitness, 106.0)
    assert fitness.cap == 58


def test_figures_of_a_later_call_lift_a_limit_as_well() -> None:
    fitness = limited(100.0)
    for asked, state in ((99.0, FitnessState.LIMITED), (101.5, FitnessState.FIT)):
        fitness.limit_seen(
            102.0, RateLimitReport(at=102.0, kind=None, asked=asked, limit_requests=60, remaining_requests=5)
        )
        assert fitness.state is state


def test_a_short_limit_is_not_reported() -> None:
    fitness = limited(100.0)
    answer(fitness, 102.0)
    assert fitness.reports() == []
    assert "lifted after 2.0 s" in fitness.changes()[-1].text


def test_a_wait_of_more_than_a_minute_is_a_hint_and_is_probed_at_the_usual_intervals() -> None:
    fitness = made()
    refuse(fitness, 100.0, wait=86_400.0)
    assert (fitness.state, fitness.reports(), fitness.hold.until) == (FitnessState.AWAY, [], 100.0)
    assert fitness.gate(100.5).allowed == 0
    assert fitness.admit(101.0).admit is Admit.PROBE
    fitness.ended(101.0, 101.0, FaultInfo(FaultKind.RATE_LIMIT, 429, "", "", 86_400.0), upstream_answered=False,
                  was_probe=True)  # fmt: skip
    probe(fitness, 103.0, None, well=True)
    assert (fitness.state, fitness.reports()) == (FitnessState.FIT, [])


def test_a_limit_that_lasts_counts_from_its_first_refusal() -> None:
    fitness = made()
    for second in range(0, 62, 2):
        refuse(fitness, 100.0 + second)
    assert (fitness.state, fitness.status(162.0).since) == (FitnessState.UNFIT, 100.0)


def test_limits_that_lift_in_between_never_last() -> None:
    fitness = made()
    for second in range(0, 600, 2):
        refuse(fitness, 100.0 + second)
        answer(fitness, 101.5 + second)
    assert fitness.state is FitnessState.FIT
    assert fitness.reports() == []


# UNFIT


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


def test_a_self_check_that_is_refused_before_a_task_is_answered_says_nothing() -> None:
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


# SUSPECT


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


# AWAY


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


# Streams that have begun


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


# All together


def test_nothing_was_held_at_the_start() -> None:
    assert made().hold == Hold(0.0)


def test_no_limit_of_a_whole_backlog_makes_a_node_unfit() -> None:
    assert simulate(World(Form.NONE, nodes=2, tasks=500)).accepted == 500  # the simulation looks at every gate


def test_the_page_names_the_test_of_every_arrow() -> None:
    page = (ROOT / "docs" / "fitness.md").read_text()
    for (begin, event), end in MOVES.items():
        assert f"test_arrow[{begin.value}-{event}-{end.value}]" in page
    for name in re.findall(r"test_[a-z_]{15,}", page):
        assert name in globals()
