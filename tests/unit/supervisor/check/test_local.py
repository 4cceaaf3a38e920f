"""`--check` of a local node, with a model server that has bad manners."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import psutil
import pytest

from supervisor.check import local as check_local
from supervisor.check.findings import Context, Finding, Mark, run_all
from supervisor.model_server import ModelServer
from tests.support.paths import ROOT
from tests.support.wait import until
from workernode import settings

TIMEOUT = 20
STANDIN = shlex.join([sys.executable, str(ROOT / "tests/support/llamafile_standin.py")]) + " --port $LOCAL_PORT"
LOCAL = {"NODE_TYPE": "local", "MODEL_NAME": "standin", "PULSAR_URL": "pulsar://localhost"}


def script(folder: Path, text: str) -> str:
    path = folder / "server.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return shlex.quote(str(path))


def local_findings(command: str, seconds: float = TIMEOUT, running_node: str = "", **variables: str) -> list[Finding]:
    known = Context(settings.load({**LOCAL, "LOCAL_COMMAND": command, **variables}), time.monotonic() + seconds)
    known.running_node.set_result(running_node)
    return run_all(check_local.checks(ModelServer), known)


def test_a_good_model_starts_and_answers_and_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_PIDFILE", str(tmp_path / "pid"))
    found = local_findings(script(tmp_path, f"exec {STANDIN}"))
    assert [one.mark for one in found] == [Mark.OK] * 3, found
    assert "4 slots, serves standin.gguf" in found[1].text
    pid = int((tmp_path / "pid").read_text().split()[-1])
    until(lambda: not psutil.pid_exists(pid), TIMEOUT, "end of the model server")


def test_a_model_server_that_exits_gives_the_same_diagnosis_as_in_the_node(tmp_path: Path) -> None:
    found = local_findings(script(tmp_path, "echo 'llama_model_load: invalid magic'; exit 1"))
    assert [one.mark for one in found] == [Mark.OK, Mark.FAULT, Mark.SKIPPED]
    assert found[1].text == "The local model server exited with code 1"
    assert found[1].advice.startswith("the model file cannot be loaded")


def test_a_model_that_loads_for_long_is_a_warning(tmp_path: Path) -> None:
    found = local_findings(script(tmp_path, "echo loading 3 %; exec sleep 100"), seconds=2.5)
    assert [one.mark for one in found] == [Mark.OK, Mark.WARNING, Mark.SKIPPED]
    assert found[1].text.endswith("its last line: loading 3 %")


def test_a_model_that_serves_something_else_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.model_server.http_api.ServerInfo.stands_for", lambda *_: False)
    found = local_findings(script(tmp_path, f"exec {STANDIN}"))
    assert "serves standin.gguf, but not standin" in found[1].text


def test_a_model_that_refuses_to_answer_is_a_fault(tmp_path: Path) -> None:
    """It takes another key than the node's."""
    found = local_findings(script(tmp_path, f"LLAMA_API_KEY=other exec {STANDIN}"))
    assert [one.mark for one in found] == [Mark.OK, Mark.OK, Mark.FAULT]
    assert "asked for a token it answers 401" in found[2].text


def test_beside_a_running_node_no_second_model_is_started(tmp_path: Path) -> None:
    found = local_findings(script(tmp_path, f"touch {shlex.quote(str(tmp_path))}/started"), running_node="standin")
    assert [one.mark for one in found] == [Mark.OK, Mark.SKIPPED, Mark.SKIPPED]
    assert not (tmp_path / "started").exists()


def test_files_that_are_missing_or_not_executable_are_faults(tmp_path: Path) -> None:
    plain = tmp_path / "model.llamafile"
    assert local_findings("no-such-program-at-all")[0].text == "no-such-program-at-all is not on PATH"
    assert local_findings("/no/such/file")[0].text == "there is no file /no/such/file"
    assert local_findings("true", LLAMAFILE=str(plain))[0].advice == "correct LLAMAFILE, or put the file there"
    plain.write_bytes(b"")
    assert local_findings("true", LLAMAFILE=str(plain))[0].advice == f"chmod +x {plain}"


def test_a_file_that_is_still_to_be_downloaded_is_no_fault(tmp_path: Path) -> None:
    found = local_findings("true", LLAMAFILE=str(tmp_path / "later"), LLAMAFILE_URL="https://h/later")
    assert found[0].mark is Mark.OK
