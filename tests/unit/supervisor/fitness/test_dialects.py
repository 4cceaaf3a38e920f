"""An upstream that refuses everything is found, in each dialect of the corpus: right reason, right advice, once.

The real reading of answers, the real self-check and the real Fitness. One refused task stands for the traffic.
"""

from __future__ import annotations

import time

import pytest

from supervisor.fitness import Begin, FitnessStateMachine, self_check
from supervisor.fitness.transitions import REASONS
from supervisor.states import FitnessState
from supervisor.upstream import FaultMessages
from tests.support.check import context
from tests.support.corpus import Case, ScriptedUpstream, cases
from workernode.protocol import NODE_KINDS, FaultKind
from workernode.upstream import upstream_target

ADVICE = {
    FaultKind.KEY: "set API_KEY",
    FaultKind.REFUSED: "check what API_KEY",
    FaultKind.QUOTA: "top up the account",
    FaultKind.MODEL: "set UPSTREAM_MODEL or MODEL_NAME",
    FaultKind.ADDRESS: "set API_URL",
}


def refuses_all(case: Case) -> bool:
    kinds = {kind.value for kind in NODE_KINDS}
    return case.expect.get("fault") in kinds and len(case.upstream) == 1 and not case.ask


CASES = [case for case in cases() if refuses_all(case)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "REPEAT_AFTER", 0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_upstream_that_refuses_everything_is_reported_once_with_the_right_reason(case: Case) -> None:
    upstream = ScriptedUpstream(case.upstream)
    settings = context(API_URL=upstream.api_url, MODEL_NAME="m").settings
    fitness = FitnessStateMachine(8, FaultMessages.of(settings), can_check=True)
    try:
        checked = self_check.self_check(settings, upstream_target(settings), lambda seen: None)
    finally:
        upstream.close()
    kind = FaultKind(case.expect["fault"])
    assert checked.fault is not None
    assert checked.fault.kind is kind
    now = time.monotonic()
    fitness.ended(
        now, checked.asked_at - 0.1, checked.fault, upstream_answered=False, was_probe=False, request_id="a task"
    )
    assert (fitness.state, fitness.reports()) == (FitnessState.SUSPECT, [])
    fitness.self_checked(now, checked)
    assert fitness.state is FitnessState.UNFIT
    (report,) = fitness.reports()
    assert isinstance(report, Begin)
    assert report.reason == REASONS[kind]
    assert ADVICE[kind] in report.message


def test_most_dialects_of_the_corpus_are_tried() -> None:
    assert len(CASES) >= 40
