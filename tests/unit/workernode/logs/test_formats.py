"""A record becomes one line of strict JSON, or a short text line."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tests.unit.workernode.logs.log import KEY, Log
from workernode.logs.formats import MAX_MESSAGE, MAX_TRACEBACK


def test_a_line_is_one_json_object_with_its_members_in_order(log: Log) -> None:
    log.log.info("task %s", "answered", extra={"event": "task_done", "request_id": "id-1", "attempt": 2})
    (line,) = log.lines
    assert list(line) == ["time", "level", "event", "message", "model", "worker", "request_id", "attempt"]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO", "event": "task_done", "message": "task answered", "model": "m", "worker": 3,
        "request_id": "id-1", "attempt": 2,
    }  # fmt: skip


def test_the_event_of_another_librarys_line_is_its_logger(log: Log) -> None:
    log.log.warning("retrying")
    assert log.lines[0]["event"] == "workernode.test"


def test_a_text_line_is_short_and_holds_no_control_sequence(text_log: Log) -> None:
    text_log.log.warning("gone\x1b[2J\n%s", KEY, extra={"event": "x", "attempt": 2, "why": None})
    assert text_log.text[12:] == " WARNING gone\\x1b[2J\\n***  attempt=2\n"


class StrFails:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(
            lambda log: log.info("%d", "x"), "a log line could not be formatted: TypeError", id="wrong-format"
        ),
        pytest.param(
            lambda log: log.info("%s", StrFails()), "a log line could not be formatted: RuntimeError", id="str-fails"
        ),
        pytest.param(
            lambda log: log.info("a", extra={"b": StrFails()}),
            "a log line could not be formatted: Run",
            id="field-fails",
        ),
        pytest.param(lambda log: log.info("a", extra={"b": float("nan")}), "a", id="nan"),
        pytest.param(lambda log: log.info("a", extra={"b": {(1, 2): 3}}), "a", id="strange-keys"),
        pytest.param(lambda log: log.info("a\udc80b"), "a?b", id="lone-surrogate"),
        pytest.param(lambda log: log.info("a\r\n\x00\u2028b"), "a\r\n\x00\u2028b", id="line-ends"),
        pytest.param(lambda log: log.info("a" * 10_000), "a" * MAX_MESSAGE + "...", id="long"),
        pytest.param(lambda log: log.info("a", extra={"b": ["c"] * 9999}), "a log line of 4", id="much-too-long"),
    ],
)
def test_logging_raises_nothing_and_always_writes_a_line(
    log: Log, write: Callable[[logging.Logger], None], message: str
) -> None:
    write(log.log)
    assert log.text.count("\n") == 1
    assert log.messages[0].startswith(message)


def test_a_long_traceback_keeps_its_end(log: Log) -> None:
    def deeper(depth: int) -> None:
        if depth:
            (deeper if depth % 2 else lambda less: deeper(less))(depth - 1)
        else:
            raise ValueError("the end of it")

    try:
        deeper(100)
    except ValueError:
        log.log.exception("failed")
    assert len(log.lines[0]["traceback"]) == MAX_TRACEBACK
    assert log.lines[0]["traceback"].endswith("ValueError: the end of it")
