"""supervisor/fitness/blame.py: whose fault a refusal is, by what other tasks and the list of models show."""

from __future__ import annotations

import pytest

from supervisor.events import ModelListSeen
from supervisor.fitness.blame import (
    ASK_AFTER,
    ENOUGH,
    LONGEST_SUSPICION,
    MORE_IF_LISTED,
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
GOOD_LIST = ModelListSeen(None, needs_key=True, is_list=True, has_model=True)
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


# the list of models


def test_the_list_is_asked_soon_after_a_refusal_and_not_again_at_once() -> None:
    blame = Blame()
    assert not blame.takes_question(NOW)
    refused(blame, NOW, "a")
    assert not blame.takes_question(NOW + ASK_AFTER / 2)
    assert blame.takes_question(NOW + ASK_AFTER)
    assert not blame.takes_question(NOW + 2 * ASK_AFTER)


@pytest.mark.parametrize("fault", [KEY, ADDRESS, MODEL], ids=lambda fault: fault.kind.value)
def test_a_list_that_is_refused_alike_counts_as_tasks(fault: FaultInfo) -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=fault)
    blame.list_seen(NOW + 1, ModelListSeen(fault))
    refused(blame, NOW + 1, "a", fault=fault)
    assert blame.node_fault == fault


def test_a_list_that_was_shown_and_now_refuses_decides_at_once() -> None:
    blame = Blame()
    blame.list_seen(NOW - 100, GOOD_LIST)
    blame.answered(NOW - 1)
    refused(blame, NOW, "a", fault=KEY)
    blame.list_seen(NOW + 0.3, ModelListSeen(KEY))
    assert blame.node_fault == KEY


def test_a_list_that_is_always_refused_says_nothing_beside_answers() -> None:
    blame = Blame()
    blame.answered(NOW - 1)
    refused(blame, NOW, "a", fault=KEY)
    blame.list_seen(NOW + 0.3, ModelListSeen(KEY))
    refused(blame, NOW + 1, "a", fault=KEY)
    assert (blame.verdict("a"), blame.node_fault) == (Verdict.TASK, None)


@pytest.mark.parametrize("fault", [KEY, REFUSED, ADDRESS, MODEL], ids=lambda fault: fault.kind.value)
def test_a_list_that_speaks_for_the_node_raises_the_bar_and_does_not_hide_a_real_fault(fault: FaultInfo) -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=fault)
    blame.list_seen(NOW + 0.3, GOOD_LIST)
    refused(blame, NOW + 0.4, *"bcd", fault=fault)
    assert blame.node_fault is None
    refused(blame, NOW + 0.5, "e", fault=fault)
    assert ENOUGH + MORE_IF_LISTED == 5
    assert blame.node_fault == fault


def test_a_list_that_everybody_sees_says_nothing_of_the_key() -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=KEY)
    blame.list_seen(NOW + 0.3, ModelListSeen(None, needs_key=False, is_list=True, has_model=True))
    refused(blame, NOW + 1, "a", fault=KEY)
    assert blame.node_fault == KEY


def test_a_second_refusal_waits_for_the_list_that_was_asked() -> None:
    blame = Blame()
    refused(blame, NOW, "a", fault=KEY)
    assert blame.takes_question(NOW + 1)
    refused(blame, NOW + 1.1, "a", fault=KEY)
    assert blame.verdict("a") is Verdict.OPEN
    blame.list_seen(NOW + 1.2, GOOD_LIST)
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
