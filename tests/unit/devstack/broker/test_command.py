"""The command line of the development broker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from devstack.broker.__main__ import main


def test_fetching_without_java_prints_an_error_and_no_traceback(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name in ("PULSAR_HOME", "JAVA_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name)
    for name, value in machine.items():
        monkeypatch.setenv(name, value)
    assert main(["fetch"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("Pulsar needs Java 17 or newer")
    assert "Traceback" not in output.err


def test_an_unknown_command_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devstack.broker", "unknown"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr
