"""supervisor/pacing.py: in a closed loop with a limited upstream, and rule by rule."""

from __future__ import annotations

import math

import pytest

from supervisor.pacing import CUT, RAMP_CALLS, STALE_AFTER, UNPACED, Ceiling, Learned, Level, Pacer
from tests.support.ratelimit import Form, World, simulate
from workernode.protocol import Kind, LimitSeen

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


@pytest.mark.parametrize("form", [Form.OPENAI, Form.AZURE], ids=lambda form: form.value)
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_minutes_budget_that_may_be_used_at_once_is_never_hit(form: Form, nodes: int) -> None:
    run = simulate(World(form, nodes=nodes, burst=600))
    assert run.used >= LIMIT_USED
    assert run.refused == 0


@pytest.mark.parametrize("form", Form, ids=lambda form: form.value)
def test_two_nodes_on_one_key_both_get_a_part_of_it(form: Form) -> None:
    # Where no figures tell, shares are left to luck, but nobody starves.
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


# Level: one budget


def level(limit: int | None = 60, remaining: int = 30, reset: float | None = 3.0, asked: float = 0.0) -> Level:
    made = Level()
    made.seen(asked, asked, limit, remaining, reset)
    return made


def test_what_is_missing_and_its_reset_measure_the_refill() -> None:
    assert level(limit=60, remaining=30, reset=3.001).refill == pytest.approx(10, rel=0.01)


def test_a_limit_without_a_reset_is_taken_as_a_minutes() -> None:
    assert level(limit=600, remaining=300, reset=None).refill == 10


def test_a_full_budget_paces_nothing() -> None:
    assert level(remaining=46, reset=1.4).rate(0.0) == math.inf


def test_at_half_of_the_budget_the_rate_is_about_the_refill() -> None:
    assert level(remaining=30, reset=3.001).rate(0.0) == pytest.approx(10.5, rel=0.01)


def test_the_less_is_left_the_slower() -> None:
    rates = [level(remaining=left, reset=(60 - left) / 10 + 0.001).rate(0.0) for left in (30, 20, 10, 5, 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1


def test_what_was_asked_since_the_figures_is_taken_off() -> None:
    budget = level(remaining=30, reset=3.001)
    for _ in range(10):
        budget.sent(0.001)
    assert budget.left(0.001) == pytest.approx(20, abs=0.1)


def test_calls_asked_before_the_first_figures_came_count() -> None:
    budget = Level()
    for moment in range(40):
        budget.sent(moment / 1000)
    budget.seen(0.2, 0.0, 60, 59, 0.1)  # the first call's answer: 39 others are on their way
    assert budget.left(0.2) == pytest.approx(60 - 39, abs=3)


def test_figures_of_an_earlier_call_that_come_late_change_nothing() -> None:
    budget = level(remaining=10, reset=5.001, asked=5.0)
    budget.seen(9.0, 1.0, 60, 55, 0.501)
    assert budget.left(5.0) == 10


def test_what_others_use_is_learned_from_what_is_missing() -> None:
    budget = Level()
    for tick in range(40):  # refilled by 10 a second, and yet it does not rise: others use it
        budget.seen(tick / 4, tick / 4, 60, 30, 3.001)
    alone = level(remaining=30, reset=3.001, asked=9.75)
    assert budget.left(10.1) < alone.left(10.1)


def test_what_others_used_does_not_keep_the_node_from_asking_for_ever() -> None:
    budget = Level()
    budget.seen(0.0, 0.0, 60, 60, 0.0)
    budget.seen(0.1, 0.1, 60, 1, 5.9)  # somebody used it all in one go
    assert budget.left(6.0) > 40


def test_without_a_limit_the_size_is_learned() -> None:
    budget = level(limit=None, remaining=59, reset=0.0)
    assert budget.size == 60
    budget.seen(0.5, 0.5, None, 9, 5.0)  # 50 less take 5 s more
    assert budget.refill == pytest.approx(10, rel=0.01)
    assert budget.size == pytest.approx(64, abs=1)


def test_a_node_that_comes_to_a_busy_key_learns_the_size_too() -> None:
    budget = level(limit=None, remaining=30, reset=3.0)
    budget.seen(0.5, 0.5, None, 0, 6.0)
    assert budget.size == pytest.approx(65, abs=1)


def test_a_new_limit_is_believed_at_once() -> None:
    budget = level(limit=60, remaining=30, reset=3.001)
    budget.seen(1.0, 1.0, 6000, 3000, 3.001)
    assert budget.refill == pytest.approx(1000, rel=0.01)


def test_a_limit_a_day_is_there_to_be_used() -> None:
    # 200 a day, 120 left: its refill (one in 432 s) is nothing that anybody could wait for.
    assert level(limit=200, remaining=120, reset=80 * 432.0).rate(0.0) >= 2


# Learned: refusals alone


def test_a_cold_start_asks_128_calls_within_half_a_second_and_then_as_many_as_it_likes() -> None:
    learned, now, moments = Learned(), 0.0, []
    while math.isfinite(rate := learned.rate(now)):
        learned.sent(now)
        moments.append(now)
        now += 1 / rate
    assert moments[128] <= 0.5
    assert len(moments) == RAMP_CALLS
    assert now <= 1.5


def test_two_refusals_measure_what_upstream_gives_back() -> None:
    learned = Learned()
    for tick in range(60):
        learned.sent(tick / 1000)
    learned.refused(0.1, 1.1, first=True)
    for tick in range(100):  # the budget was empty at 0.1 and is at 10.1: what went through in between was given back
        learned.sent(0.1 + tick / 10)
    learned.refused(10.1, 11.1, first=True)
    assert learned.rate(11.1) == pytest.approx(0.95 * 10, rel=0.02)


def test_those_that_were_refused_with_it_are_taken_off_the_measure() -> None:
    one, four = Learned(), Learned()
    for learned in (one, four):
        learned.refused(0.0, 1.0, first=True)
        for tick in range(40):
            learned.sent(tick / 10)
        learned.refused(4.0, 5.0, first=True)
    for _ in range(3):
        four.refused(4.01, 5.0, first=False)
    assert four.rate(5.0) == pytest.approx(one.rate(5.0) - 0.95 * 3 / 4, rel=0.01)


def test_the_rate_creeps_and_then_leaps() -> None:
    learned = Learned()
    learned.refused(0.0, 1.0, first=True)
    for tick in range(100):
        learned.sent(tick / 10)
    learned.refused(10.0, 10.0, first=True)
    assert 0.94 < learned.rate(10.0) / 10 < learned.rate(25.0) / 10 < 1.02
    assert learned.rate(310.0) > 1000


def test_slow_down_cuts_the_rate_and_keeps_it_for_a_quarter_of_an_hour() -> None:
    learned = Learned()
    for tick in range(600):
        learned.sent(tick / 10)
    learned.slow_down(60.0, 60.0)
    steady = learned.rate(60.0)
    assert 1 <= steady < 20
    assert learned.rate(900.0) == steady
    assert learned.rate(3000.0) > steady


# Pacer


def seen(remaining: int | None = None, kind: Kind | None = None, tokens: int | None = None) -> LimitSeen:
    return LimitSeen(
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
    assert pacer.room(0.05) == 0
    assert 0.05 < pacer.again_at(0.05) <= 0.35


def test_figures_that_are_old_pace_nothing() -> None:
    pacer = Pacer()
    for _ in range(RAMP_CALLS):
        pacer.sent(0.0)
    pacer.seen(seen(remaining=10))
    assert pacer.room(1.0) < 10
    assert pacer.room(STALE_AFTER + 1) == UNPACED


def test_room_does_not_pile_up_while_nothing_is_asked() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=20))
    assert pacer.room(0.1) <= 1
    assert pacer.room(1.4) <= 2


def test_a_refusal_that_the_figures_explain_teaches_no_rate() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=0))
    pacer.refused(0.0, seen(remaining=0, kind=Kind.RATE_LIMIT), resumes=0.1, first=True)
    assert pacer.rate(3.0) > 5


def test_a_refusal_that_they_do_not_explain_does() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=58))
    pacer.refused(0.0, seen(remaining=58, kind=Kind.RATE_LIMIT), resumes=0.1, first=True)
    assert pacer.rate(0.1) < 1


def test_the_more_were_refused_the_longer_they_are_spread() -> None:
    pacer = Pacer()
    pacer.seen(seen(remaining=0))
    spreads = [
        pacer.refused(0.0, seen(remaining=0, kind=Kind.RATE_LIMIT), resumes=0.1, first=number == 0)
        for number in range(20)
    ]
    assert spreads == sorted(spreads)
    assert spreads[0] == 0
    assert 1 < spreads[-1] <= 10


# Ceiling


def test_the_cap_is_cut_once_and_climbs_fast_then_slowly() -> None:
    ceiling = Ceiling(64)
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
    ceiling = Ceiling(3)
    for _ in range(50):
        ceiling.cut()
    assert ceiling.cap == 1
    for _ in range(50):
        ceiling.grow()
    assert ceiling.cap == 3
