"""`--check`: how checks run when one hangs, breaks or fails, and how their findings are shown."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.check import command as check
from supervisor.check.findings import Check, Context, Finding, Mark, run_all
from supervisor.model_server import ModelServer
from supervisor.telemetry import is_installed
from tests.support.check import REMOTE, context, marks, one_line
from workernode import settings

# How checks run.


def test_a_check_that_hangs_is_a_fault_and_the_others_are_reported() -> None:
    released = threading.Event()

    def hangs(_: Context) -> Iterator[Finding]:
        yield Finding("first", Mark.OK, "fine")
        released.wait()

    def fine(_: Context) -> Iterator[Finding]:
        yield Finding("other", Mark.WARNING, "hm")

    short = Context(settings.load(REMOTE), time.monotonic() + 0.1)
    found = run_all([Check(("first", "second", "third"), hangs), Check(("other",), fine)], short)
    released.set()
    assert marks(found) == [
        ("first", Mark.OK), ("second", Mark.FAULT), ("third", Mark.SKIPPED), ("other", Mark.WARNING),
    ]  # fmt: skip
    assert "no answer within" in found[1].text


def test_a_check_that_raises_is_a_fault() -> None:
    def breaks(_: Context) -> Iterator[Finding]:
        yield Finding("first", Mark.OK, "fine")
        raise RuntimeError("boom")

    found = run_all([Check(("first", "second"), breaks)], context())
    assert marks(found) == [("first", Mark.OK), ("second", Mark.FAULT)]
    assert "RuntimeError: boom" in found[1].text


def test_what_depends_on_a_failed_check_is_skipped() -> None:
    def ends(_: Context) -> Iterator[Finding]:
        yield Finding("first", Mark.FAULT, "broken")

    found = run_all([Check(("first", "second"), ends)], context())
    assert marks(found) == [("first", Mark.FAULT), ("second", Mark.SKIPPED)]


# What is shown.

SOME = [
    Finding("environment", Mark.OK, "a remote node"),
    Finding("upstream: key", Mark.FAULT, "the key is refused", "set API_KEY"),
    Finding("clock", Mark.WARNING, "5 s behind", "set it"),
]


def test_the_table_has_a_line_for_each_finding_and_its_advice_below() -> None:
    lines = check.table(SOME).splitlines()
    assert lines[2:7] == [
        "ok     environment    a remote node",
        "FAULT  upstream: key  the key is refused",
        "                      → set API_KEY",
        "warn   clock          5 s behind",
        "                      → set it",
    ]
    assert lines[-1].startswith("1 fault: the node will not serve like this. 1 warning: ")


def test_json_has_the_same_findings() -> None:
    report = json.loads(check.report(SOME))
    assert report["ok"] is False
    assert report["findings"][1] == {
        "name": "upstream: key", "mark": "fault", "text": "the key is refused", "advice": "set API_KEY",
    }  # fmt: skip
    assert json.loads(check.report(SOME[:1]))["ok"] is True


@pytest.mark.parametrize(("found", "code"), [(SOME, 1), (SOME[::2], 0)])
def test_only_a_fault_makes_the_exit_code_1(
    found: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "find", lambda *_: found)
    assert check.check({}, Path("none"), False, ModelServer, is_installed) == code
    assert check.check({}, Path("none"), True, ModelServer, is_installed) == code
    assert capsys.readouterr().out.count("a remote node") == 2


def test_every_fault_of_the_environment_is_a_finding(tmp_path: Path) -> None:
    found = check.find({"NODE_TYPE": "remote", "MAX_PROCESS_NUM": "many"}, tmp_path / ".env", ModelServer, is_installed)
    assert [one.name for one in found] == ["environment"] * 5 + ["everything else"]
    assert one_line(found[0]).startswith("FAULT: MODEL_NAME is not set → it must be ")
