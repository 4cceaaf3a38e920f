"""`--check`: what is found where this machine's clock differs from those of others."""

from __future__ import annotations

import time

import pytest

from supervisor.check import clock as check_clock
from supervisor.check import upstream as check_upstream
from supervisor.check.findings import Mark, run_all
from tests.support.check import Api, context


@pytest.mark.parametrize(
    ("ahead", "mark", "expected"),
    [
        (0.4, Mark.OK, "agrees with the clock of upstream"),
        (6, Mark.WARNING, "6 s behind the clock"),
        (-90, Mark.FAULT, "90 s ahead of the clock"),
    ],
)
def test_a_clock_difference_is_found(ahead: float, mark: Mark, expected: str) -> None:
    known = context()
    known.clocks += [("the API server", 0.1), ("upstream", ahead)]
    found = check_clock.clock(known)
    assert found.mark is mark
    assert expected in found.text


def test_the_date_header_of_upstream_is_compared_with_the_clock(api: Api) -> None:
    api.date = time.time() + 100
    known = context(API_URL=api.url)
    run_all(check_upstream.checks(), known)
    assert [(whose, round(ahead / 10)) for whose, ahead in known.clocks] == [("upstream", 10)]


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_an_invalid_date_header_is_ignored(date: str | None) -> None:
    known = context()
    check_clock.note_clock(known, "upstream", date, 0)
    assert known.clocks == []


@pytest.mark.parametrize(("kernel", "mark"), [(True, Mark.OK), (False, Mark.WARNING), (None, Mark.SKIPPED)])
def test_without_anybody_the_kernel_is_asked(kernel: bool | None, mark: Mark) -> None:
    assert check_clock.clock(context(), lambda: kernel).mark is mark


def test_the_kernel_answers_or_does_not() -> None:
    assert check_clock.is_synchronised() in (True, False, None)
