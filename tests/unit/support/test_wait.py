"""Waiting for conditions (tests/support/wait.py)."""

from __future__ import annotations

import pytest

from tests.support.wait import until, until_equal
from tests.unit.support.http_client import TIMEOUT


def test_until_gives_the_first_truthy_value() -> None:
    values = iter([0, "", 7])
    assert until(lambda: next(values), TIMEOUT, "a value") == 7


def test_until_fails_with_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"no bread within 0\.04 s; last seen: 0"):
        until(lambda: 0, 0.01, "bread")


def test_until_takes_a_failed_assertion_for_not_yet() -> None:
    left = [1, 2]

    def nearly() -> bool:
        assert not left, left.pop()
        return True

    assert until(nearly, TIMEOUT, "an empty list")


def test_until_equal_names_the_figure_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"no eight within .*last seen: .*7"):
        until_equal(lambda: 7, 8, 0.01, "eight")
