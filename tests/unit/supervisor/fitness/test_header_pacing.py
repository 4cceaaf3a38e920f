"""supervisor/fitness/header_pacing.py: rate-limit headers become a rate."""

from __future__ import annotations

import math

import pytest

from supervisor.fitness.header_pacing import Budget


def level(limit: int | None = 60, remaining: int = 30, reset: float | None = 3.0, asked: float = 0.0) -> Budget:
    made = Budget()
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


def test_the_rate_falls_with_the_remaining_budget() -> None:
    rates = [level(remaining=left, reset=(60 - left) / 10 + 0.001).rate(0.0) for left in (30, 20, 10, 5, 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1


def test_what_was_asked_since_the_figures_is_taken_off() -> None:
    budget = level(remaining=30, reset=3.001)
    for _ in range(10):
        budget.sent(0.001)
    assert budget.left(0.001) == pytest.approx(20, abs=0.1)


def test_calls_asked_before_the_first_figures_came_count() -> None:
    budget = Budget()
    for moment in range(40):
        budget.sent(moment / 1000)
    budget.seen(0.2, 0.0, 60, 59, 0.1)  # the first call's answer: 39 others are on their way
    assert budget.left(0.2) == pytest.approx(60 - 39, abs=3)


def test_figures_of_an_earlier_call_that_come_late_change_nothing() -> None:
    budget = level(remaining=10, reset=5.001, asked=5.0)
    budget.seen(9.0, 1.0, 60, 55, 0.501)
    assert budget.left(5.0) == 10


def test_what_others_use_is_learned_from_what_is_missing() -> None:
    budget = Budget()
    for tick in range(40):  # refilled by 10 a second, and yet it does not rise: others use it
        budget.seen(tick / 4, tick / 4, 60, 30, 3.001)
    alone = level(remaining=30, reset=3.001, asked=9.75)
    assert budget.left(10.1) < alone.left(10.1)


def test_what_others_used_does_not_keep_the_node_from_asking_for_ever() -> None:
    budget = Budget()
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
