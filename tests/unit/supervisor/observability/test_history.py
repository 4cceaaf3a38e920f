"""The recent past: a quarter of an hour of figures, and the last faults, both bounded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise

import pytest

from supervisor.observability.history import CLOSEST, LENGTH, MOST, POINTS, SPAN, STEP, History, Last, LastFaults
from tests.support.status import life, serving
from workernode.redaction import Redactor


def test_one_point_a_step_and_a_quarter_of_an_hour_of_them() -> None:
    history = History()
    for second in range(3000):
        history.add(serving(float(second)))
    ago = history.columns(3000.0)["ago_s"]
    assert SPAN - STEP <= ago[0] <= SPAN + STEP
    assert {round(old - new, 1) for old, new in pairwise(ago)} == {STEP}


def test_snapshots_between_two_steps_are_left_out() -> None:
    history = History()
    for each in range(100_000):
        history.add(serving(each / 100))
    ago = history.columns(1000.0)["ago_s"]
    assert min(old - new for old, new in pairwise(ago)) >= CLOSEST - 0.1
    assert len(ago) <= POINTS


def test_old_points_go_when_nobody_measured_for_a_while() -> None:
    history = History()
    for at in (0.0, 10.0, SPAN + 5.0):
        history.add(serving(at))
    assert history.columns(SPAN + 5.0)["ago_s"] == [SPAN - 5.0, 0.0]


def test_the_figures_are_the_snapshots() -> None:
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


def test_tokens_per_second_are_over_some_seconds() -> None:
    history = History()
    for step in range(20):  # an answer of 100 tokens comes whole every ten seconds
        history.add(serving(step * STEP, tokens=100.0 * (step // 5)))
    rates = history.columns(40.0)["tokens_per_s"]
    assert rates[0] == 0
    assert set(rates[9:]) == {10.0}


def test_a_count_that_starts_again_is_no_negative_rate() -> None:
    history = History()
    history.add(serving(0.0, tokens=500.0))
    history.add(serving(2.0, tokens=0.0))
    assert history.columns(2.0)["tokens_per_s"] == [0.0, 0.0]


def test_a_quarter_of_an_hour_as_json_is_small() -> None:
    history = History()
    for each in life(900.0):
        history.add(each)
    assert sum(len(str(column)) for column in history.columns(900.0).values()) < 25_000


def test_reports_are_kept_by_reason_and_words() -> None:
    last = Last()
    for at, reason, text in ((1.0, "A", "x"), (2.0, "B", "x"), (3.0, "A", "y"), (4.0, "A", "x")):
        last.note(at, reason, text)
    assert [(each.at, each.what, each.text, each.times) for each in last.told] == [
        (4.0, "A", "x", 2),
        (3.0, "A", "y", 1),
        (2.0, "B", "x", 1),
    ]


@pytest.fixture
def faults() -> Iterator[tuple[LastFaults, logging.Logger]]:
    """The last faults of a log of this test's own; its clock counts the lines."""
    clock = iter(range(10**6))
    handler = LastFaults(Redactor(["sk-canary-123456"], as_json=False), lambda: float(next(clock)))
    log = logging.getLogger("test_history")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    yield handler, log
    log.removeHandler(handler)
    log.propagate = True


def test_warnings_and_errors_are_kept_the_newest_first(faults: tuple[LastFaults, logging.Logger]) -> None:
    handler, log = faults
    log.info("started")
    log.warning("no connection: %s", "refused", extra={"event": "broker_down", "why": "refused"})
    log.error("worker 1 died", extra={"event": "worker_died", "why": "killed by SIGKILL"})
    assert [(each.at, each.what, each.text) for each in handler.told] == [
        (1.0, "worker_died", "worker 1 died: killed by SIGKILL"),
        (0.0, "broker_down", "no connection: refused"),
    ]


def test_what_is_said_again_is_counted_with_its_newest_reason(faults: tuple[LastFaults, logging.Logger]) -> None:
    handler, log = faults
    log.warning("task refused", extra={"event": "task_ended", "why": "first"})
    log.warning("worker died")
    for number in range(1000):
        log.warning("task refused", extra={"event": "task_ended", "why": f"number {number}"})
    first, second = handler.told
    assert (first.text, first.times, second.text) == ("task refused: number 999", 1001, "worker died")


def test_they_are_bounded(faults: tuple[LastFaults, logging.Logger]) -> None:
    handler, log = faults
    for number in range(500):
        log.warning("fault %d %s", number, "x" * 5000)
    assert len(handler.told) == MOST
    assert handler.told[0].text.startswith("fault 499 ")
    assert all(len(each.text) <= LENGTH + 1 for each in handler.told)


def test_secrets_are_taken_out(faults: tuple[LastFaults, logging.Logger]) -> None:
    handler, log = faults
    log.warning("refused: %s", "sk-canary-123456 is wrong", extra={"why": "sk-canary-123456"})
    assert "canary" not in handler.told[0].text


def test_a_line_that_cannot_be_written_harms_nobody(faults: tuple[LastFaults, logging.Logger]) -> None:
    handler, log = faults
    handler.handle(log.makeRecord("x", logging.WARNING, "", 0, "%d", ("no number",), None))
    assert handler.told == ()
