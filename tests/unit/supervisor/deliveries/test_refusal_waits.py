"""What the dispatcher does with a task that upstream refuses, while it is open whose fault that is."""

from __future__ import annotations

import pytest

from supervisor.fitness import KEPT_FOR, Admission, Admit, Verdict
from tests.unit.supervisor.dispatcher.effects import LIMIT, NAK_DELAY, Effects
from workernode.protocol import Decision, FaultInfo, FaultKind, Job

FIREWALL = FaultInfo(FaultKind.REFUSED, 403, "", "")
UPSTREAM_ERROR = {"error": {"message": "no", "type": "x", "param": None, "code": None}}


@pytest.fixture
def effects() -> Effects:
    return Effects()


def refuse(effects: Effects, job: Job) -> None:
    """Upstream refuses the task, with an error that its client may get."""
    effects.slots += 1
    effects.decide(job, Decision.NAK, "access_refused", fault=FIREWALL, client_error=UPSTREAM_ERROR)


def test_a_refused_task_is_kept_until_it_is_known_whose_fault_that_is(effects: Effects) -> None:
    job = effects.run("a")
    refuse(effects, job)
    assert effects.made("refused", "record", "nak") == [("refused", "access_refused")]
    assert len(effects.dispatcher) == 1
    effects.given_verdict = Verdict.TASK
    effects.dispatcher.decide_refused(effects.now)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert (rejection.status, rejection.decision, rejection.error) == ("refused", Decision.ACK, UPSTREAM_ERROR)


def test_the_calls_of_a_refused_task_count_in_its_next_job(effects: Effects) -> None:
    effects.given_verdict = Verdict.AGAIN
    job = effects.run("a")
    effects.slots += 1
    more = {"fault": FIREWALL, "client_error": UPSTREAM_ERROR, "attempts": 2}
    effects.decide(job, Decision.NAK, "access_refused", **more)
    effects.dispatcher.hand_over()
    assert [job.attempts for job in effects.jobs] == [0, 2]


def test_a_refused_task_is_asked_once_more_when_the_node_is_found_well(effects: Effects) -> None:
    effects.given_verdict = Verdict.AGAIN
    refuse(effects, effects.run("a"))
    effects.dispatcher.hand_over()
    assert [job.rejection for job in effects.jobs] == [None, None]


@pytest.mark.parametrize("verdict", [Verdict.NODE, Verdict.OPEN])
def test_a_refused_task_goes_to_another_node_when_the_fault_is_the_nodes_or_stays_unknown(
    effects: Effects, verdict: Verdict
) -> None:
    job = effects.run("a")
    refuse(effects, job)
    effects.given_verdict = verdict
    effects.now += KEPT_FOR
    effects.dispatcher.decide_refused(effects.now)
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", NAK_DELAY)]


@pytest.mark.parametrize(("verdict", "words"), [(Verdict.NODE, "refuses the node"), (Verdict.OPEN, "not available")])
def test_a_refused_task_whose_redeliveries_are_used_up_gets_the_nodes_error_and_not_upstreams(
    effects: Effects, verdict: Verdict, words: str
) -> None:
    refuse(effects, effects.run("a", redeliveries=LIMIT))
    effects.given_verdict = verdict
    effects.now += KEPT_FOR
    effects.dispatcher.decide_refused(effects.now)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "gave_up"
    assert words in str(rejection.error)


def test_a_refused_task_goes_back_when_the_node_stops(effects: Effects) -> None:
    job = effects.run("a")
    refuse(effects, job)
    effects.dispatcher.decide_rest({})
    effects.dispatcher.decide_refused(effects.now + KEPT_FOR)
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", 0.0)]


def test_a_client_gets_its_error_at_once_when_a_rate_limit_outlasts_the_tasks_time(effects: Effects) -> None:
    effects.receive("a", age=290.0)
    effects.dispatcher.hand_over()
    limit = FaultInfo(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", 30.0)
    effects.decide(effects.jobs[-1], Decision.NAK, "rate_limited", fault=limit)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "gave_up"


@pytest.mark.parametrize(
    ("kind", "asked", "delay"),
    [
        (FaultKind.RATE_LIMIT, 7.0, 7.0),
        (FaultKind.RATE_LIMIT, 86_400.0, NAK_DELAY),
        (FaultKind.UNAVAILABLE, 600.0, NAK_DELAY),
    ],
    ids=["a limit", "a day", "another node's upstream may be well"],
)
def test_a_nak_waits_for_a_rate_limit_and_no_longer_than_a_minute(
    effects: Effects, kind: FaultKind, asked: float, delay: float
) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.NAK, "rate_limited", fault=FaultInfo(kind, 429, "", "", asked))
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", delay)]


def test_a_probe_that_found_upstream_away_does_not_count_as_a_delivery(effects: Effects) -> None:
    effects.admission = Admission(Admit.PROBE)
    away = FaultInfo(FaultKind.UNAVAILABLE, 503, "", "")
    for count in range(5):
        received = effects.receive("a", redeliveries=count, entry=7)
        effects.dispatcher.hand_over()
        assert effects.jobs[-1].redeliveries == 0
        effects.decide(effects.jobs[-1], Decision.NAK, "upstream_trouble", fault=away)
        effects.stored(effects.jobs[-1])
    assert received.redeliveries == 4
