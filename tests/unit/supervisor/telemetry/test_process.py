"""What ended reaches the telemetry process, whatever that does, and nobody waits for it."""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.telemetry import process
from supervisor.telemetry.process import TelemetryProcess
from tests.support.wait import until
from tests.unit.supervisor.telemetry.test_spans import ANSWERED, SETTINGS, asked, outcome
from workernode.record import Node

NODE = Node("node-1", "host-a", "remote", "1.2.3")
OUTCOME = outcome(ANSWERED, asked())


def command(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import pickle, sys\nstream = sys.stdin.buffer\n{code}", *arguments)


WRITES = """
node = pickle.load(stream)[1]
while True:
    try:
        for ended in pickle.load(stream):
            with open(sys.argv[1], "a") as file:
                print(node.id, ended.request_id, ended.trace.trace_id, file=file)
    except EOFError:
        break
"""


def test_every_delivery_is_there_when_the_node_has_stopped(tmp_path: Path) -> None:
    file = tmp_path / "ended"
    telemetry = TelemetryProcess(SETTINGS, NODE, command(WRITES, str(file)))
    for number in range(1000):
        telemetry.ended(replace(OUTCOME, request_id=f"id-{number}"))
    telemetry.close(60)
    assert file.read_text().splitlines() == [f"node-1 id-{number} {'a' * 32}" for number in range(1000)]


def test_a_message_that_could_not_be_read_has_no_trace_and_is_not_sent(tmp_path: Path) -> None:
    file = tmp_path / "ended"
    telemetry = TelemetryProcess(SETTINGS, NODE, command(WRITES, str(file)))
    telemetry.ended(replace(OUTCOME, trace=None))
    telemetry.close(60)
    assert not file.exists()


def test_a_process_that_reads_nothing_holds_nobody_up_and_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "MOST_WAITING", 100)
    ready = tmp_path / "ready"
    code = "open(sys.argv[1], 'w').close()\nimport time\ntime.sleep(3600)"
    telemetry = TelemetryProcess(SETTINGS, NODE, command(code, str(ready)))
    until(ready.exists, 60, "the process")
    for _ in range(1000):
        telemetry.ended(OUTCOME)
    assert len(telemetry._waiting) <= 100
    telemetry.close(0.2)
    child = telemetry._process
    assert child is not None
    assert child.wait(60) == -signal.SIGKILL


def test_a_process_that_dies_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "START_AGAIN", 0.05)
    file, first = tmp_path / "ended", tmp_path / "first"
    dies_once = f"import os\nif not os.path.exists(sys.argv[2]): open(sys.argv[2], 'w').close(); sys.exit(3)\n{WRITES}"
    with caplog.at_level(logging.WARNING):
        telemetry = TelemetryProcess(SETTINGS, NODE, command(dies_once, str(file), str(first)))

        def is_there() -> bool:
            telemetry.ended(OUTCOME)
            return file.exists()

        until(is_there, 60, "a delivery that was sent after the death")
    telemetry.close(60)
    assert {record.event for record in caplog.records} == {"telemetry_failed"}  # type: ignore[attr-defined]
