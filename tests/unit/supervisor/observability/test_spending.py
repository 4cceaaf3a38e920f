"""The cost of the last hour is what was spent in it, and no more is kept than an hour needs."""

from __future__ import annotations

import pytest

from supervisor.observability.spending import Spending


def test_before_an_hour_is_over_everything_counts() -> None:
    spending = Spending()
    assert [spending.last_hour(float(now), now / 10) for now in (0, 1, 1800, 3599)] == [0, 0.1, 180, 359.9]


def test_what_was_spent_more_than_an_hour_ago_does_not_count() -> None:
    spending = Spending()
    for now in range(10_000):
        last = spending.last_hour(float(now), now / 10)
    assert last == pytest.approx(360, abs=6)  # a tenth a second, exact to a minute
    assert len(spending._totals) <= 62


def test_after_an_hour_without_a_task_nothing_was_spent() -> None:
    spending = Spending()
    for now in range(0, 7300, 10):
        last = spending.last_hour(float(now), 5.0 if now else 0.0)
    assert last == 0
