"""The handler writes repeated lines as a number."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.wait import until
from tests.unit.workernode.logs.log import Log
from workernode.logs.repeats import WINDOW_S


def test_repeated_warnings_are_written_as_a_number(log: Log) -> None:
    for number in range(1244):
        log.log.warning("no connection: %d", number, extra={"event": "broker_down"})
    log.log.warning("something else")
    assert log.messages == [*(f"no connection: {number}" for number in range(10)), "something else"]
    log.now += WINDOW_S
    log.log.warning("something else")
    folded = log.lines[-2]
    assert (folded["level"], folded["event"], folded["folded"]) == ("WARNING", "broker_down", 1234)
    assert folded["message"] == "and 1234 more like it in 10 s"


def test_the_ids_of_all_tasks_that_failed_are_in_the_log_by_status(log: Log) -> None:
    for number in range(200):
        about = {"event": "task_ended", "status": ("refused", "timeout")[number % 2], "request_id": f"id-{number}"}
        log.log.warning("task %s", about["status"], extra=about)
    log.handler.flush()
    ids = [id for line in log.lines for id in (line.get("request_ids") or [line["request_id"]])]
    assert sorted(ids) == sorted(f"id-{number}" for number in range(200))
    assert len(log.lines) == 2 * (10 + 2)
    assert log.messages[-1] == "and 40 more like it in 10 s: timeout"
    assert all(len(line.encode()) < 4096 for line in log.text.splitlines())


@pytest.mark.parametrize(
    ("write", "lines"),
    [
        pytest.param(lambda log, n: log.error("fault %d", n, extra={"event": "report"}), 50, id="different-errors"),
        pytest.param(lambda log, n: log.error("fault", extra={"event": "report"}), 10, id="the-same-error"),
        pytest.param(lambda log, n: log.info("task %s", "done", extra={"event": "t", "request_id": n}), 50, id="tasks"),
        pytest.param(lambda log, n: log.info(f"output {n}", extra={"event": "model_output"}), 50, id="output"),
        pytest.param(lambda log, n: log.info("retry %d", n, extra={"event": "retry"}), 10, id="the-same-info"),
        pytest.param(lambda log, n: log.debug("stage", extra={"event": "stage"}), 50, id="debug"),
        pytest.param(lambda log, n: log.warning(f"a{n % 2}"), 20, id="warnings-without-an-event"),
    ],
)
def test_only_repeated_lines_are_folded(log: Log, write: Callable[[logging.Logger, int], None], lines: int) -> None:
    for number in range(50):
        write(log.log, number)
    assert len(log.lines) == lines


def test_the_number_is_written_even_if_nothing_else_is_logged(tmp_path: Path) -> None:
    made = Log(tmp_path / "log", window_s=0.05)
    for _ in range(15):
        made.log.warning("again", extra={"event": "again"})
    made.now += 1
    until(lambda: made.messages[-1] == "and 5 more like it in 0.05 s", 30, "number of folded lines")
    made.close()


def test_the_number_is_written_when_the_process_ends(log: Log) -> None:
    for _ in range(15):
        log.log.warning("again", extra={"event": "again"})
    log.handler.flush()
    assert log.messages[-1] == "and 5 more like it in 10 s"
