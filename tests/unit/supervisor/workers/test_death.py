"""What becomes of a task whose worker died: each row of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.workers.death import MOST_ALONE, MOST_SHARED, Settled, after_death
from workernode.call_stats import CallStats
from workernode.protocol import AnswerState, Decision, Rejection, SavedStream

ANSWERED = (Decision.ACK, "answered")
OTHERS = Rejection("gave_up", Decision.ACK, {"error": {}}, 503)
LIMIT = 2


def decide(state: AnswerState, rejection: Rejection | None = None, **more: Any) -> Settled | Rejection | SavedStream:
    facts: dict[str, Any] = {
        "deaths": 1,
        "counts": True,
        "failed_sends": 0,
        "failed_alone": 0,
        "limit": LIMIT,
        "is_used_up": False,
        "is_alone": False,
    }
    return after_death(state, rejection, "killed by SIGKILL", **{**facts, **more})


@pytest.mark.parametrize("state", [AnswerState.ENDING, AnswerState.ENDED])
def test_an_answer_whose_end_may_have_left_is_never_ended_again(state: AnswerState) -> None:
    verdict = decide(state, is_used_up=True)
    assert isinstance(verdict, Settled)
    assert (verdict.decision, verdict.status) == ANSWERED


@pytest.mark.parametrize("state", [AnswerState.ENDING, AnswerState.ENDED])
def test_a_rejection_whose_end_may_have_left_keeps_its_own_decision(state: AnswerState) -> None:
    poison = Rejection("poison", Decision.DEAD_LETTER, {"error": {}}, 0, reason="why")
    assert decide(state, poison, failed_sends=LIMIT + 1) == Settled(Decision.DEAD_LETTER, "poison", "why")


def test_a_stream_that_the_client_has_begun_to_see_is_ended_and_not_run_again() -> None:
    verdict = decide(AnswerState.STARTED)
    assert isinstance(verdict, Rejection)
    assert (verdict.status, verdict.decision) == ("broken", Decision.ACK)


def saved(*, resumes: int = 0, is_finished: bool = False) -> SavedStream:
    return SavedStream({}, True, "so far", 2, resumes, is_finished, CallStats())


@pytest.mark.parametrize(
    ("stream", "deaths", "goes_on"),
    [
        (saved(), 1, True),
        (saved(resumes=1), 2, True),
        (saved(resumes=2), 1, False),
        (saved(resumes=2, is_finished=True), 1, True),  # only its end is missing
        (saved(), 3, False),  # it may be what kills them
    ],
)
def test_a_stream_whose_text_is_known_goes_on(stream: SavedStream, deaths: int, goes_on: bool) -> None:
    verdict = decide(AnswerState.STARTED, saved=stream, deaths=deaths)
    if goes_on:
        assert verdict == replace(stream, resumes=stream.resumes + 1)
    else:
        assert isinstance(verdict, Rejection)


@pytest.mark.parametrize("resumes", range(3))
def test_a_stream_whose_worker_was_killed_from_outside_goes_on_and_may_go_on_as_often_as_before(resumes: int) -> None:
    stream = saved(resumes=resumes)
    assert decide(AnswerState.STARTED, saved=stream, deaths=0, counts=False) == stream


@pytest.mark.parametrize("state", [AnswerState.ENDING, AnswerState.ENDED])
def test_a_stream_whose_end_may_have_left_does_not_go_on(state: AnswerState) -> None:
    assert isinstance(decide(state, saved=saved()), Settled)


def test_a_task_of_which_nothing_was_seen_goes_back_to_the_broker() -> None:
    verdict = decide(AnswerState.NOT_STARTED)
    assert isinstance(verdict, Settled)
    assert (verdict.decision, verdict.status) == (Decision.NAK, "worker_died")


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"deaths": 3, "is_alone": True}, "poison"),
        ({"deaths": 1, "is_alone": True}, "poison"),
        ({"deaths": 1, "is_alone": False}, "gave_up"),
        ({"deaths": 2, "is_alone": False}, "worker_died"),  # a neighbour may have caused it: tried once more, alone
    ],
    ids=["alone again", "alone at once", "first death, last try", "never alone"],
)
def test_used_up_redeliveries_end_in_poison_only_where_the_task_caused_the_death(
    facts: dict[str, Any], status: str
) -> None:
    verdict = decide(AnswerState.NOT_STARTED, is_used_up=True, **facts)
    assert isinstance(verdict, (Settled, Rejection))
    assert verdict.status == status


@pytest.mark.parametrize(
    "facts",
    [{"deaths": 3, "is_alone": True}, {"deaths": 0, "is_alone": True}, {"deaths": 1}, {"deaths": 0, "limit": 0}],
    ids=["alone", "alone, the first death", "one death before that counted", "without redeliveries"],
)
def test_a_task_whose_worker_was_killed_from_outside_goes_back_to_the_broker(facts: dict[str, Any]) -> None:
    verdict = decide(AnswerState.NOT_STARTED, is_used_up=True, counts=False, **facts)
    assert isinstance(verdict, Settled)
    assert (verdict.decision, verdict.status) == (Decision.NAK, "worker_died")


@pytest.mark.parametrize("state", [AnswerState.NOT_STARTED, AnswerState.STARTED])
def test_a_rejection_is_sent_again_by_another_worker_until_that_kills_too_many(state: AnswerState) -> None:
    assert decide(state, OTHERS, failed_sends=LIMIT + 1, failed_alone=MOST_ALONE - 1, is_alone=True) is OTHERS
    verdict = decide(state, OTHERS, failed_sends=LIMIT + 2, failed_alone=MOST_ALONE, is_alone=True)
    assert isinstance(verdict, Settled)
    assert (verdict.decision, verdict.status) == (Decision.DEAD_LETTER, "poison")


def test_a_rejection_whose_worker_had_other_jobs_too_is_sent_again_by_one_that_has_none() -> None:
    """One of the others may be what killed it; but not for ever."""
    assert decide(AnswerState.STARTED, OTHERS, failed_sends=LIMIT + 1) is OTHERS
    assert isinstance(decide(AnswerState.STARTED, OTHERS, failed_sends=LIMIT * MOST_SHARED + 1), Settled)


def test_without_redeliveries_a_death_while_the_error_is_sent_does_not_leave_the_client_without_it() -> None:
    assert decide(AnswerState.NOT_STARTED, OTHERS, limit=0, failed_sends=1) is OTHERS
