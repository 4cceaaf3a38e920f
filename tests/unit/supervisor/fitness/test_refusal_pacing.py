"""supervisor/fitness/refusal_pacing.py: what refusals alone teach."""

from __future__ import annotations

import math

import pytest

from supervisor.fitness.refusal_pacing import RAMP_CALLS, LearnedRate


def test_a_cold_start_asks_128_calls_within_little_more_than_a_second_and_then_as_many_as_it_likes() -> None:
    learned, now, moments = LearnedRate(), 0.0, []
    while math.isfinite(rate := learned.rate(now)):
        learned.sent(now)
        moments.append(now)
        now += 1 / rate
    assert moments[128] <= 1.1
    assert len(moments) == RAMP_CALLS
    assert now <= 2.4


def test_two_refusals_measure_what_upstream_gives_back() -> None:
    learned = LearnedRate()
    for tick in range(60):
        learned.sent(tick / 1000)
    learned.refused(0.1, first=True)
    for tick in range(100):  # the budget was empty at 0.1 and is at 10.1: what went through in between was given back
        learned.sent(0.1 + tick / 10)
    learned.refused(10.1, first=True)
    assert learned.rate(11.1) == pytest.approx(0.93 * 10, rel=0.02)


def test_those_that_were_refused_with_it_are_taken_off_the_measure() -> None:
    one, four = LearnedRate(), LearnedRate()
    for learned in (one, four):
        learned.refused(0.0, first=True)
        for tick in range(40):
            learned.sent(tick / 10)
        learned.refused(4.0, first=True)
    for _ in range(3):
        four.refused(4.01, first=False)
    assert four.rate(5.0) == pytest.approx(one.rate(5.0) - 0.95 * 3 / 4, rel=0.01)


def test_the_rate_creeps_and_then_leaps() -> None:
    learned = LearnedRate()
    learned.refused(0.0, first=True)
    for tick in range(100):
        learned.sent(tick / 10)
    learned.refused(10.0, first=True)
    assert 0.92 < learned.rate(10.0) / 10 < learned.rate(25.0) / 10 < 1.02
    assert learned.rate(310.0) > 1000


def test_slow_down_cuts_the_rate_and_keeps_it_for_a_quarter_of_an_hour() -> None:
    learned = LearnedRate()
    for tick in range(600):
        learned.sent(tick / 10)
    learned.slow_down(60.0)
    steady = learned.rate(60.0)
    assert 1 <= steady < 20
    assert learned.rate(900.0) == steady
    assert learned.rate(3000.0) > steady


def test_a_rate_that_nobody_used_is_cut_to_what_was_used() -> None:
    learned = LearnedRate()
    learned.refused(0.0, first=True)
    for second in range(1, 3600):  # one a second for an hour: what is allowed has grown beyond all use
        learned.sent(float(second))
        if second == 1800:
            learned.refused(1800.0, first=True)
    assert learned.rate(3600.0) > 1000
    learned.refused(3600.0, first=True)
    assert learned.rate(3601.0) < 3


def test_the_second_refusal_teaches_the_refill_although_the_budget_ran_full_between() -> None:
    learned, left, at = LearnedRate(), 10.0, 0.0  # a bucket of 10 that gets 10 a second
    now, refusals, next_call = 0.0, 0, 0.0
    while refusals < 2:
        now = max(now, next_call)
        left, at = min(10.0, left + 10 * (now - at)), now
        learned.sent(now)
        if left >= 1:
            left -= 1
        else:
            refusals += 1
            learned.refused(now, first=True)
            learned.resume(now + 0.5)
            now += 0.5
        next_call = now + 1 / learned.rate(now)
    assert 0.8 < learned.rate(now) / 10 < 1.1
