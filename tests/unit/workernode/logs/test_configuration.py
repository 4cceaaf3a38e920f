"""Each process sends its log to stderr, and uncaught exceptions too."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.workernode.logs.log import KEY, Log
from workernode import logs, redaction
from workernode.logs.configuration import OURS


def test_a_secret_that_is_added_later_is_hidden_too(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_added", ())
    redaction.add_secrets(["dynamic-secret"])
    log.log.info("started with dynamic-secret and %s", KEY)
    assert log.messages == ["started with *** and ***"]


@pytest.fixture
def fresh_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Logging as it is when a process starts, put back afterwards. Gives a descriptor to write to, and read from."""
    root = logging.getLogger()
    kept = (root.level, root.handlers[:], {name: logging.getLogger(name).level for name in OURS})
    for name in ("logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, True)
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    fd = os.memfd_create("log")
    yield fd
    for handler in root.handlers:
        if handler not in kept[1]:
            handler.close()
    os.close(fd)
    root.setLevel(kept[0])
    root.handlers[:] = kept[1]
    for name, level in kept[2].items():
        logging.getLogger(name).setLevel(level)


def written(fd: int) -> list[dict[str, Any]]:
    os.lseek(fd, 0, os.SEEK_SET)
    return [json.loads(line) for line in os.read(fd, 1_000_000).splitlines()]


@pytest.mark.parametrize(("debug", "levels"), [(False, ["INFO", "WARNING"]), (True, ["DEBUG", "INFO", "WARNING"])])
def test_debug_lines_are_those_of_our_own_packages(fresh_logging: int, debug: bool, levels: list[str]) -> None:
    logs.configure(debug=debug, fd=fresh_logging, model="m", worker=None)
    for name in ("websockets.client", "workernode.x"):
        logging.getLogger(name).debug("debug")
        logging.getLogger(name).info("info")
    logging.getLogger("urllib3").warning("warning")
    lines = written(fresh_logging)
    assert [line["level"] for line in lines] == levels
    assert all(line["model"] == "m" and "worker" not in line for line in lines)


def test_configuring_again_replaces_the_first_handler(fresh_logging: int) -> None:
    logs.configure(fd=fresh_logging)
    logs.configure(fd=fresh_logging)
    logging.getLogger("workernode").info("once")
    assert len(written(fresh_logging)) == 1


def test_an_uncaught_exception_is_logged_without_its_secrets(fresh_logging: int) -> None:
    logs.configure(secrets=[KEY], fd=fresh_logging)
    thread = threading.Thread(target=lambda: int(KEY), name="t")
    thread.start()
    thread.join()
    try:
        int(f"x{KEY}")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    lines = written(fresh_logging)
    assert [(line["level"], line["event"], line["message"]) for line in lines] == [
        ("CRITICAL", "uncaught", "unexpected ValueError"),
    ] * 2
    assert all("ValueError: invalid literal" in line["traceback"] for line in lines)
    assert "canary" not in json.dumps(lines)
