"""supervisor/fitness/state_machine.py: a node that a rate limit holds."""

from __future__ import annotations

import pytest

from supervisor.fitness import Admit
from supervisor.states import FitnessState, Intake
from tests.unit.supervisor.fitness.state_machine.machines import (
    answer,
    limited,
    made,
    probe,
    refuse,
)
from workernode.protocol import (
    FaultInfo,
    FaultKind,
    RateLimitReport,
)


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
