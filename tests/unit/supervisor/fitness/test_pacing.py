"""supervisor/fitness/pacing.py: in a closed loop with a limited upstream, and rule by rule."""

from __future__ import annotations

from statistics import mean

import pytest

from supervisor.fitness.header_pacing import STALE_AFTER
from supervisor.fitness.pacing import CUT, UNPACED, CallCap, Pacer
from supervisor.fitness.refusal_pacing import RAMP_CALLS
from tests.support.ratelimit import Form, World, simulate
from workernode.protocol import FaultKind, RateLimitReport

LIMIT_USED, MOST_REFUSED = 0.9, 0.02  # issue 5, first line of "Done when"

NODES = {
    "one node": {"nodes": 1},
    "two nodes on one key": {"nodes": 2},
    "a second node that comes later": {"nodes": 2, "stagger_s": 7.0},
}
ANSWERS = {
    "answers at once": {"answer_s": 0.005},
    "answers of two seconds": {"answer_s": 2.0},
    "streams of two seconds": {"answer_s": 2.0, "streamed": True},
}


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("nodes", NODES.values(), ids=NODES.keys())
@pytest.mark.parametrize("form", Form, ids=lambda form: form.value)
def test_a_limit_of_600_a_minute_is_used_and_seldom_hit(
    form: Form, nodes: dict[str, float], answers: dict[str, float]
) -> None:
    run = simulate(World(form, **{**nodes, **answers}))  # type: ignore[arg-type]
    assert run.used >= LIMIT_USED
    assert run.refused_share < MOST_REFUSED


@pytest.mark.parametrize("burst", [10, 20, 60])
@pytest.mark.parametrize("answer_s", [0.005, 0.2])
@pytest.mark.parametrize("nodes", [1, 2], ids=["one node", "two nodes on one key"])
@pytest.mark.parametrize("form", Form, ids=lambda form: form.value)
def test_a_node_that_has_just_started_uses_the_limit_within_its_first_320_tasks(
    form: Form, nodes: int, answer_s: float, burst: int
) -> None:
    # One refusal is 0.3 % of 320 calls: three runs, and what they have on average.
    worlds = [World(form, nodes=nodes, tasks=320, burst=burst, answer_s=answer_s, seed=seed) for seed in range(3)]
    runs = [simulate(world) for world in worlds]
    assert mean(run.used for run in runs) >= LIMIT_USED
    assert mean(run.refused_share for run in runs) < (MOST_REFUSED if burst > 10 else 0.022)  # 6.5 calls on average


@pytest.mark.parametrize("form", [Form.OPENAI, Form.AZURE], ids=lambda form: form.value)
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_minutes_budget_that_may_be_used_at_once_is_never_hit(form: Form, nodes: int) -> None:
    run = simulate(World(form, nodes=nodes, burst=600))
    assert run.used >= LIMIT_USED
    assert run.refused == 0


@pytest.mark.parametrize("form", Form, ids=lambda form: form.value)
def test_two_nodes_on_one_key_both_get_a_part_of_it(form: Form) -> None:
    # Without figures the shares are by chance, but each node gets some.
    run = simulate(World(form, nodes=2))
    least = 0.4 if form in (Form.OPENAI, Form.AZURE) else 0.1
    assert min(run.by_node) >= least * sum(run.by_node)


@pytest.mark.parametrize("form", Form, ids=lambda form: form.value)
def test_a_slow_way_to_the_supervisor_costs_few_refusals(form: Form) -> None:
    run = simulate(World(form, nodes=2, hop_s=0.02, way_s=0.005))
    assert run.used >= LIMIT_USED
    assert run.refused_share < MOST_REFUSED


def test_a_small_budget_is_used_too() -> None:
    run = simulate(World(Form.OPENAI, burst=10))
    assert run.used >= LIMIT_USED
    assert run.refused_share < MOST_REFUSED


# Pacer


def seen(remaining: int | None = None, kind: FaultKind | None = None, tokens: int | None = None) -> RateLimitReport:
    return RateLimitReport(
        at=0.0, kind=kind, asked=0.0, limit_requests=None if remaining is None else 60, remaining_requests=remaining,
        reset_requests=None if remaining is None else (60 - remaining) / 10 + 0.001,
        limit_tokens=None if tokens is None else 60_000, remaining_tokens=tokens,
        reset_tokens=None if tokens is None else (60_000 - tokens) / 1000 + 0.001,
    )


def test_the_tighter_budget_counts() -> None:
    pacer = Pacer()
    pacer.used(500)
    pacer.seen(seen(remaining=60, tokens=30_000))
    assert pacer.rate(0.0) == pytest.approx(3, rel=0.01)  # 1,000 tokens a second, 500 a call; and half a minute's stock


def test_nothing_is_let_through_that_the_budget_cannot_pay() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=0))
    assert pacer.allowed(0.05) == 0
    assert 0.05 < pacer.again_at(0.05) <= 0.35


def test_figures_that_are_old_pace_nothing() -> None:
    pacer = Pacer()
    for _ in range(RAMP_CALLS):
        pacer.sent(0.0)
    pacer.seen(seen(remaining=10))
    assert pacer.allowed(1.0) < 10
    assert pacer.allowed(STALE_AFTER + 1) == UNPACED


def test_room_does_not_pile_up_while_nothing_is_asked() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=20))
    assert pacer.allowed(0.1) <= 1
    assert pacer.allowed(1.4) <= 2


def test_a_refusal_that_the_figures_explain_teaches_no_rate() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=0))
    pacer.refused(0.0, seen(remaining=0, kind=FaultKind.RATE_LIMIT), resumes=0.1, first=True)
    assert pacer.rate(3.0) > 5


def test_a_refusal_that_they_do_not_explain_does() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=58))
    pacer.refused(0.0, seen(remaining=58, kind=FaultKind.RATE_LIMIT), resumes=0.1, first=True)
    assert pacer.rate(0.1) < 1


def test_the_more_were_refused_the_longer_they_are_spread() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=0))
    spreads = [
        pacer.refused(0.0, seen(remaining=0, kind=FaultKind.RATE_LIMIT), resumes=0.1, first=number == 0)
        for number in range(20)
    ]
    assert spreads == sorted(spreads)
    assert spreads[0] == 0
    assert 1 < spreads[-1] <= 10


# CallCap


def test_the_cap_is_cut_once_and_climbs_fast_then_slowly() -> None:
    ceiling = CallCap(64)
    ceiling.cut()
    assert ceiling.cap == int(64 * CUT)
    steps = []
    for _ in range(400):
        ceiling.grow()
        steps.append(ceiling.cap)
    assert steps[6] == 58  # one a success
    assert steps[40] == 58  # then one a round
    assert steps[-1] == 64


def test_the_cap_stays_between_one_and_the_most() -> None:
    ceiling = CallCap(3)
    for _ in range(50):
        ceiling.cut()
    assert ceiling.cap == 1
    for _ in range(50):
        ceiling.grow()
    assert ceiling.cap == 3
