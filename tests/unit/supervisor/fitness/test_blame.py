"""supervisor/fitness/blame.py: whose fault a refusal is, by what other tasks and the self-check show."""

from __future__ import annotations

import pytest

from supervisor.events import SelfChecked
from supervisor.fitness.blame import (
    CHECK_AFTER,
    CHECK_LOST,
    CHECK_PAUSE,
    ENOUGH,
    LONGEST_SUSPICION,
    MORE_IF_WELL,
    TRIALS,
    WAIT_FOR_CALLS,
    Blame,
    Verdict,
)
from workernode.protocol import FaultInfo, FaultKind

KEY = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "")
QUOTA = FaultInfo(FaultKind.QUOTA, 402, "insufficient_quota", "")
MODEL = FaultInfo(FaultKind.MODEL, 404, "model_not_found", "")
ADDRESS = FaultInfo(FaultKind.ADDRESS, 404, "", "")
REFUSED = FaultInfo(FaultKind.REFUSED, 403, "", "")
CERTIFICATE = FaultInfo(FaultKind.CERTIFICATE, 0, "", "")
ALL = [KEY, QUOTA, MODEL, ADDRESS, REFUSED]
NAMED = [KEY, QUOTA, MODEL]
NOW = 1000.0
PASSING = FaultInfo(FaultKind.PASSING, 500, "", "")
BAD_REQUEST = FaultInfo(FaultKind.CLIENT, 400, "unsupported_parameter", "")
every = pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.kind.value)


def refused(blame: Blame, now: float, *request_ids: str, fault: FaultInfo = REFUSED) -> None:
    for request_id in request_ids:
        blame.refused(now, request_id, now, fault)


@every
def test_a_refusal_among_good_answers_is_asked_again_and_then_the_tasks_own(fault: FaultInfo) -> None:
    blame = Blame()
    for moment in range(20):
        blame.answered(NOW + moment)
    refused(blame, NOW + 20, "poisoned", fault=fault)
    assert blame.verdict("poisoned") is Verdict.OPEN
    blame.answered(NOW + 20.1)
    assert blame.verdict("poisoned") is Verdict.AGAIN
    assert not blame.is_suspect(NOW + 20.1)
    refused(blame, NOW + 20.2, "poisoned", fault=fault)
    assert blame.verdict("poisoned") is Verdict.TASK
    assert blame.node_fault is None
    assert not blame.is_suspect(NOW + 20.2)


@every
def test_the_last_task_of_many_is_its_own_without_any_other_evidence(fault: FaultInfo) -> None:
    blame = Blame()
    blame.answered(NOW)
    refused(blame, NOW + 1, "poisoned", fault=fault)
    refused(blame, NOW + 3, "poisoned", fault=fault)
    assert (blame.verdict("poisoned"), blame.node_fault) == (Verdict.TASK, None)


@every
def test_what_all_tasks_are_refused_with_is_the_nodes(fault: FaultInfo) -> None:
    blame = Blame()
    ids = [str(number) for number in range(ENOUGH)]
    refused(blame, NOW, *ids[:-1], fault=fault)
    assert blame.node_fault is None
    refused(blame, NOW, ids[-1], fault=fault)
    assert blame.node_fault == fault
    assert {blame.verdict(each) for each in ids} == {Verdict.NODE}


@every
def test_it_takes_more_refusals_if_upstream_answered_within_the_last_minute(fault: FaultInfo) -> None:
    blame = Blame()
    blame.answered(NOW)
    refused(blame, NOW + 1, *"abcd", fault=fault)
    assert blame.node_fault is None
    refused(blame, NOW + 1, "e", fault=fault)
    assert ENOUGH + MORE_IF_WELL == 5
    assert blame.node_fault == fault


def test_an_answer_to_a_call_that_was_asked_before_the_refused_one_is_no_evidence() -> None:
    blame = Blame()
    blame.refused(NOW, "a", NOW - 0.1, KEY)
    blame.answered(NOW - 0.2)
    assert blame.verdict("a") is Verdict.OPEN
    blame.answered(NOW - 0.1)
    assert blame.verdict("a") is Verdict.AGAIN


def test_a_refusal_that_comes_after_the_answer_to_a_later_call_is_cleared_at_once() -> None:
    blame = Blame()
    blame.answered(NOW)
    blame.refused(NOW + 1, "slow", NOW - 1, REFUSED)
    assert blame.verdict("slow") is Verdict.AGAIN
    assert not blame.is_suspect(NOW + 1)


def test_refusals_of_different_kinds_do_not_add_up() -> None:
    blame = Blame()
    for number, fault in enumerate(ALL):
        refused(blame, NOW, str(number), fault=fault)
    assert blame.node_fault is None


def test_an_answer_between_starts_the_count_anew() -> None:
    blame = Blame()
    for moment in range(100):
        refused(blame, NOW + moment, f"{moment}a", f"{moment}b")
        blame.answered(NOW + moment + 0.5)
    assert blame.node_fault is None


def test_calls_under_way_are_waited_for_and_not_for_long() -> None:
    blame = Blame()
    refused(blame, NOW, "a")
    blame.asked(NOW, "slow")
    refused(blame, NOW, "b", "c")
    assert blame.node_fault is None
    blame.tick(NOW + WAIT_FOR_CALLS)
    assert blame.node_fault == REFUSED


@pytest.mark.parametrize("fault", NAMED, ids=lambda fault: fault.kind.value)
def test_a_lone_task_that_is_refused_twice_by_name_blames_a_node_that_never_answered(fault: FaultInfo) -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=fault)
    refused(blame, NOW + 1, "a", fault=fault)
    assert blame.node_fault == fault


@pytest.mark.parametrize("fault", [ADDRESS, REFUSED], ids=lambda fault: fault.kind.value)
def test_a_lone_task_that_is_refused_twice_without_a_name_is_its_own(fault: FaultInfo) -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=fault)
    refused(blame, NOW + 1, "a", fault=fault)
    assert (blame.verdict("a"), blame.node_fault) == (Verdict.TASK, None)


def test_a_certificate_is_never_a_tasks_fault() -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=CERTIFICATE)
    assert blame.node_fault == CERTIFICATE


# the self-check


def checked(fault: FaultInfo | None, *refused_ids: str, suspected: FaultInfo = REFUSED) -> Blame:
    """Tasks were refused, a self-check was made, and ended so."""
    blame = Blame(can_check=True)
    refused(blame, NOW, *refused_ids, fault=suspected)
    assert blame.takes_self_check(NOW + CHECK_AFTER)
    blame.self_checked(NOW + CHECK_AFTER + 0.1, SelfChecked(NOW + CHECK_AFTER, fault))
    return blame


def test_a_self_check_is_made_soon_after_a_refusal_and_not_again_at_once() -> None:
    blame = Blame(can_check=True)
    assert not blame.takes_self_check(NOW)
    refused(blame, NOW, "a")
    assert not blame.takes_self_check(NOW + CHECK_AFTER / 2)
    assert blame.takes_self_check(NOW + CHECK_AFTER)
    assert not blame.takes_self_check(NOW + 2 * CHECK_AFTER)


def test_a_self_check_is_not_made_again_while_the_last_one_is_under_way() -> None:
    blame = Blame(can_check=True)
    refused(blame, NOW, "a")
    assert blame.takes_self_check(NOW + CHECK_AFTER)
    refused(blame, NOW + CHECK_PAUSE + 1, "a")
    assert not blame.takes_self_check(NOW + CHECK_PAUSE + 2)
    refused(blame, NOW + CHECK_LOST + 1, "a")
    assert blame.takes_self_check(NOW + CHECK_LOST + 2)


def test_a_node_that_cannot_check_never_does() -> None:
    blame = Blame()
    refused(blame, NOW, "a")
    assert not blame.takes_self_check(NOW + 100)


@every
@pytest.mark.parametrize("well_before", [True, False], ids=["well before", "never answered before"])
def test_many_refused_tasks_blame_no_node_whose_self_check_is_answered(fault: FaultInfo, well_before: bool) -> None:
    blame = Blame(can_check=True)
    if well_before:
        blame.answered(NOW - 1)
    ids = [str(number) for number in range(8)]
    refused(blame, NOW, *ids, fault=fault)
    assert blame.node_fault is None
    assert blame.takes_self_check(NOW + CHECK_AFTER)
    blame.self_checked(NOW + 0.5, SelfChecked(NOW + CHECK_AFTER))
    assert {blame.verdict(each) for each in ids} == {Verdict.AGAIN}
    refused(blame, NOW + 0.6, *ids, fault=fault)
    assert {blame.verdict(each) for each in ids} == {Verdict.TASK}
    assert blame.node_fault is None


@every
def test_poisoned_tasks_that_come_one_after_the_other_never_blame_a_node_that_is_well(fault: FaultInfo) -> None:
    blame = Blame(can_check=True)
    moments = [NOW + step / 10 for step in range(300)]
    for step, now in enumerate(moments):
        if step % 5 == 0:
            refused(blame, now, f"poisoned {step}", fault=fault)
        if blame.takes_self_check(now):
            blame.self_checked(now, SelfChecked(now))
        blame.tick(now)
        assert blame.node_fault is None


@every
@pytest.mark.parametrize("well_before", [True, False], ids=["well before", "never answered before"])
def test_one_refused_task_and_a_refused_self_check_blame_the_node(fault: FaultInfo, well_before: bool) -> None:
    blame = Blame(can_check=True)
    if well_before:
        blame.answered(NOW - 1)
    refused(blame, NOW, "a", fault=fault)
    assert blame.takes_self_check(NOW + CHECK_AFTER)
    blame.self_checked(NOW + 1.3, SelfChecked(NOW + 1.2, fault))
    assert blame.node_fault == fault
    assert blame.verdict("a") is Verdict.NODE


@every
def test_the_first_refusal_of_a_self_check_is_enough_where_several_tasks_were_refused(fault: FaultInfo) -> None:
    for ids, blamed in (("ab", None), ("abc", fault)):
        blame = Blame(can_check=True)
        refused(blame, NOW, *ids, fault=fault)
        assert blame.takes_self_check(NOW) is (blamed is not None)  # it is not waited for where several were refused
        assert blame.takes_self_check(NOW + CHECK_AFTER) is (blamed is None)
        blame.self_checked(NOW + 0.3, SelfChecked(NOW + CHECK_AFTER, fault, is_first_refusal=True))
        assert blame.node_fault == blamed


def test_a_self_check_that_is_refused_blames_a_node_without_tasks() -> None:
    blame = Blame(can_check=True)
    blame.self_checked(NOW, SelfChecked(NOW - 0.1, KEY))
    assert blame.node_fault == KEY


def test_a_refused_self_check_proves_nothing_if_a_later_call_was_answered() -> None:
    blame = Blame(can_check=True)
    refused(blame, NOW, "a")
    blame.answered(NOW + 0.4)
    blame.self_checked(NOW + 0.5, SelfChecked(NOW + 0.3, KEY))
    assert blame.node_fault is None


@every
def test_tasks_decide_where_the_self_check_shows_nothing(fault: FaultInfo) -> None:
    blame = checked(PASSING, *"abc", suspected=fault)
    assert blame.node_fault == fault


def test_an_older_self_check_that_showed_nothing_does_not_let_tasks_decide() -> None:
    blame = checked(PASSING, "a")
    blame.answered(NOW + 1)
    refused(blame, NOW + 100, *"bcdefgh")
    assert blame.node_fault is None


def test_a_self_check_that_is_refused_as_a_bad_request_clears_all_but_the_quota() -> None:
    assert checked(BAD_REQUEST, "a", suspected=KEY).verdict("a") is Verdict.AGAIN
    assert checked(BAD_REQUEST, "a", suspected=QUOTA).verdict("a") is Verdict.OPEN


def test_a_second_refusal_waits_for_the_self_check() -> None:
    blame = Blame(can_check=True)
    refused(blame, NOW, "a", fault=KEY)
    assert blame.takes_self_check(NOW + 1)
    refused(blame, NOW + 1.1, "a", fault=KEY)
    assert blame.verdict("a") is Verdict.OPEN
    blame.self_checked(NOW + 1.2, SelfChecked(NOW + 1))
    refused(blame, NOW + 1.3, "a", fault=KEY)
    assert blame.verdict("a") is Verdict.TASK


# suspicion


def test_a_suspicion_ends_by_itself_where_nothing_happens() -> None:
    blame = Blame()
    refused(blame, NOW, "a")
    assert blame.suspicion(NOW + LONGEST_SUSPICION - 0.1) == REFUSED
    assert blame.suspicion(NOW + LONGEST_SUSPICION) is None


def test_few_tasks_are_tried_at_once_while_the_node_is_suspect() -> None:
    blame = Blame()
    refused(blame, NOW, "a")
    for number in range(TRIALS):
        assert blame.trials(NOW) == TRIALS - number
        blame.asked(NOW, str(number))
    assert blame.trials(NOW) == 0
    blame.ended("0")
    assert blame.trials(NOW) == 1


def test_a_decision_is_forgotten_when_the_node_is_well_again() -> None:
    blame = Blame()
    refused(blame, NOW, *"abc")
    blame.reset()
    assert blame.node_fault is None
    refused(blame, NOW + 1, "d")
    assert blame.node_fault is None
