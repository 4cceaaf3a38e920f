"""When upstream is asked again within one delivery, and when the task goes back at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from workernode.errors import UpstreamFault
from workernode.protocol import FaultKind
from workernode.upstream.retry_policy import ATTEMPTS, LONGEST_RETRY_PAUSE, ask_with_retries


def failing(kind: FaultKind, calls: list[int], retry_after: float | None = None) -> Callable[[], None]:
    def ask() -> None:
        calls.append(1)
        raise UpstreamFault(kind, "no", retry_after=retry_after)

    return ask


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only a pause moves on."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("kind", FaultKind)
def test_only_what_may_pass_is_asked_again(kind: FaultKind, clock: list[float]) -> None:
    calls: list[int] = []
    with pytest.raises(UpstreamFault):
        ask_with_retries(failing(kind, calls), time.monotonic() + 1000, lambda seconds: None)
    passing = (FaultKind.PASSING, FaultKind.UNAVAILABLE, FaultKind.RATE_LIMIT, FaultKind.RAMP)
    assert len(calls) == (ATTEMPTS if kind in passing else 1)


@pytest.mark.parametrize(
    ("kind", "retry_after", "waits"),
    [
        (FaultKind.UNAVAILABLE, 1.5, True),
        (FaultKind.UNAVAILABLE, 600.0, False),
        (FaultKind.RATE_LIMIT, 59.0, True),
        (FaultKind.RATE_LIMIT, 61.0, False),
        (FaultKind.RAMP, 86_400.0, False),
        (FaultKind.PASSING, 900.0, True),
    ],
)
def test_a_wait_that_is_too_long_for_its_kind_is_not_begun(kind: FaultKind, retry_after: float, waits: bool) -> None:
    calls: list[int] = []
    pauses: list[float] = []
    with pytest.raises(UpstreamFault):
        ask_with_retries(failing(kind, calls, retry_after), time.monotonic() + 10**6, pauses.append)
    assert bool(pauses) is waits
    assert all(pause >= retry_after for pause in pauses)


def test_the_pauses_for_an_upstream_that_is_away_count_together(clock: list[float]) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    with pytest.raises(UpstreamFault):
        ask_with_retries(failing(FaultKind.UNAVAILABLE, [], 0.9), clock[0] + 1000, pause)
    assert 1 <= len(pauses) < ATTEMPTS - 1
    assert sum(pauses) <= LONGEST_RETRY_PAUSE[FaultKind.UNAVAILABLE]


def test_a_wait_that_outlasts_the_tasks_time_is_not_begun() -> None:
    calls: list[int] = []
    with pytest.raises(UpstreamFault):
        ask_with_retries(failing(FaultKind.PASSING, calls, 30.0), time.monotonic() + 20, lambda seconds: 1 / 0)
    assert len(calls) == 1


def test_a_failed_call_is_not_repeated_where_retries_are_not_allowed() -> None:
    calls: list[int] = []
    with pytest.raises(UpstreamFault):
        ask_with_retries(
            failing(FaultKind.PASSING, calls), time.monotonic() + 1000, lambda seconds: 1 / 0, lambda: False
        )
    assert len(calls) == 1


def test_a_call_is_not_repeated_after_a_pause_in_which_that_was_forbidden() -> None:
    calls: list[int] = []
    pauses: list[float] = []
    with pytest.raises(UpstreamFault) as caught:
        ask_with_retries(
            failing(FaultKind.PASSING, calls), time.monotonic() + 1000, pauses.append, lambda: not pauses
        )
    assert (len(calls), len(pauses)) == (1, 1)
    assert (caught.value.kind, caught.value.message) == (FaultKind.PASSING, "no")
