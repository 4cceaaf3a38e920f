"""The figures of the last 15 minutes, and the last faults, both bounded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise

import pytest

from supervisor.observability.history import (
    MAX_NOTICES,
    MAX_POINTS,
    MAX_TEXT,
    MIN_STEP,
    SPAN,
    STEP,
    History,
    RecentFaults,
    RecentNotices,
)
from tests.support.status import life, serving
from workernode.redaction import Redactor


def test_history_keeps_one_point_a_step_for_15_minutes() -> None:
    history = History()
    for second in range(3000):
        history.add(serving(float(second)))
    ago = history.columns(3000.0)["ago_s"]
    assert SPAN - STEP <= ago[0] <= SPAN + STEP
    assert {round(old - new, 1) for old, new in pairwise(ago)} == {STEP}


def test_snapshots_between_two_steps_are_not_kept() -> None:
    history = History()
    for each in range(100_000):
        history.add(serving(each / 100))
    ago = history.columns(1000.0)["ago_s"]
    assert min(old - new for old, new in pairwise(ago)) >= MIN_STEP - 0.1
    assert len(ago) <= MAX_POINTS


def test_old_points_are_dropped_after_a_pause() -> None:
    history = History()
    for at in (0.0, 10.0, SPAN + 5.0):
        history.add(serving(at))
    assert history.columns(SPAN + 5.0)["ago_s"] == [SPAN - 5.0, 0.0]


def test_a_point_has_the_snapshots_figures() -> None:
    history = History()
    history.add(serving(0.0, cap=4, in_flight=3, cpu_percent=12.34, memory_percent=56.78))
    columns = history.columns(1.0)
    assert columns == {
        "ago_s": [1.0],
        "cap": [4],
        "in_flight": [3],
        "cpu_percent": [12.3],
        "memory_percent": [56.8],
        "tokens_per_s": [0.0],
    }


def test_tokens_per_second_are_averaged_over_some_seconds() -> None:
    history = History()
    for step in range(20):  # an answer of 100 tokens comes whole every ten seconds
        history.add(serving(step * STEP, tokens=100.0 * (step // 5)))
    rates = history.columns(40.0)["tokens_per_s"]
    assert rates[0] == 0
    assert set(rates[9:]) == {10.0}


def test_a_count_that_starts_again_gives_no_negative_rate() -> None:
    history = History()
    history.add(serving(0.0, tokens=500.0))
    history.add(serving(2.0, tokens=0.0))
    assert history.columns(2.0)["tokens_per_s"] == [0.0, 0.0]


def test_15_minutes_as_json_are_small() -> None:
    history = History()
    for each in life(900.0):
        history.add(each)
    assert sum(len(str(column)) for column in history.columns(900.0).values()) < 25_000


def test_equal_reports_are_one_notice_with_a_count() -> None:
    last = RecentNotices()
    for at, reason, text in ((1.0, "A", "x"), (2.0, "B", "x"), (3.0, "A", "y"), (4.0, "A", "x")):
        last.add(at, reason, text)
    assert [(each.at, each.what, each.text, each.times) for each in last.newest_first] == [
        (4.0, "A", "x", 2),
        (3.0, "A", "y", 1),
        (2.0, "B", "x", 1),
    ]


@pytest.fixture
def faults() -> Iterator[tuple[RecentFaults, logging.Logger]]:
    """The last faults of a log that only this test uses; its clock counts the lines."""
    clock = iter(range(10**6))
    handler = RecentFaults(Redactor(["sk-canary-123456"], as_json=False), lambda: float(next(clock)))
    log = logging.getLogger("test_history")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    yield handler, log
    log.removeHandler(handler)
    log.propagate = True


def test_warnings_and_errors_are_kept_newest_first(faults: tuple[RecentFaults, logging.Logger]) -> None:
    handler, log = faults
    log.info("started")
    log.warning("no connection: %s", "refused", extra={"event": "broker_down", "why": "refused"})
    log.error("worker 1 died", extra={"event": "worker_died", "why": "killed by SIGKILL"})
    assert [(each.at, each.what, each.text) for each in handler.newest_first] == [
        (1.0, "worker_died", "worker 1 died: killed by SIGKILL"),
        (0.0, "broker_down", "no connection: refused"),
    ]


def test_a_repeated_fault_is_counted_and_shows_its_newest_reason(faults: tuple[RecentFaults, logging.Logger]) -> None:
    handler, log = faults
    log.warning("task refused", extra={"event": "task_ended", "why": "first"})
    log.warning("worker died")
    for number in range(1000):
        log.warning("task refused", extra={"event": "task_ended", "why": f"number {number}"})
    first, second = handler.newest_first
    assert (first.text, first.times, second.text) == ("task refused: number 999", 1001, "worker died")


def test_number_and_length_of_faults_are_bounded(faults: tuple[RecentFaults, logging.Logger]) -> None:
    handler, log = faults
    for number in range(500):
        log.warning("fault %d %s", number, "x" * 5000)
    assert len(handler.newest_first) == MAX_NOTICES
    assert handler.newest_first[0].text.startswith("fault 499 ")
    assert all(len(each.text) <= MAX_TEXT + 1 for each in handler.newest_first)


def test_secrets_are_redacted(faults: tuple[RecentFaults, logging.Logger]) -> None:
    handler, log = faults
    log.warning("refused: %s", "sk-canary-123456 is wrong", extra={"why": "sk-canary-123456"})
    assert "canary" not in handler.newest_first[0].text


def test_a_log_line_that_cannot_be_formatted_is_skipped(faults: tuple[RecentFaults, logging.Logger]) -> None:
    handler, log = faults
    handler.handle(log.makeRecord("x", logging.WARNING, "", 0, "%d", ("no number",), None))
    assert handler.newest_first == ()
