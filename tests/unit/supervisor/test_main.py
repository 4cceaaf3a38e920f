"""The command line, settings that cannot be used, and the version."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor import main
from tests.support.check import KEY, REMOTE, TIMEOUT, TOKEN
from tests.support.paths import ROOT
from workernode import version
from workernode.settings import VARIABLES

# The command.


def run(
    *arguments: str, environ: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, ROOT / "WorkerNode.py", *arguments],
        env={**kept, **(environ or {})}, cwd=cwd, capture_output=True, text=True, check=False, timeout=3 * TIMEOUT,
    )  # fmt: skip


def test_help_lists_every_variable() -> None:
    output = run("--help").stdout
    assert set(re.findall(r"^  ([A-Z_0-9]+) ", output, re.MULTILINE)) == set(VARIABLES)
    assert max(map(len, output.splitlines())) <= main.WIDTH


def test_version_prints_version_and_commit() -> None:
    assert run("--version").stdout == f"WorkerNode {version.version()}\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("sys.version_info = (3, 9, 18)", "WorkerNode needs Python 3.10 or newer; "),
        ("sys.modules['tomllib'] = sys.modules['tomli'] = None", "The Python package toml"),
    ],
    ids=["an_old_python", "a_package_that_the_settings_need"],
)
def test_a_python_that_cannot_run_the_node_is_told_in_one_line(lines: str, said: str) -> None:
    code = f"import runpy, sys; {lines}; runpy.run_path('WorkerNode.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_json_without_check_is_a_wrong_command_line() -> None:
    assert run("--json").returncode == 2


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [("", 78), ("--check", 1)])
def test_closed_standard_streams_change_nothing(arguments: str, code: int, closed: str, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = f"exec '{sys.executable}' '{ROOT}/WorkerNode.py' {arguments} {closed}"
    assert subprocess.run(["/bin/sh", "-c", command], env=environ, cwd=tmp_path, check=False).returncode == code


def test_check_prints_its_table_where_the_locale_has_no_utf_8(tmp_path: Path) -> None:
    done = run("--check", environ={"PYTHONIOENCODING": "ascii"}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "? it must be `remote` or `local`" in done.stdout


def test_check_of_a_bare_environment(tmp_path: Path) -> None:
    done = run("--check", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert {one["name"] for one in json.loads(done.stdout)["findings"]} == {"environment", "everything else"}


def test_whatever_hangs_there_is_an_answer(tmp_path: Path) -> None:
    """Every address takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as hole:
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        environ = REMOTE | {
            "PULSAR_URL": f"pulsar://{address}", "API_URL": f"https://{address}", "STATUS_ADDR": address,
            "AIMODEL_NAME": "m", "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": address.partition(":")[2],
        }  # fmt: skip
        done = run("--check", "--json", environ=environ, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    found = {one["name"]: one["mark"] for one in json.loads(done.stdout)["findings"]}
    assert [name for name, mark in found.items() if mark == "fault"] == [
        "status address", "broker", "upstream", "kubernetes",
    ]  # fmt: skip
    assert KEY not in done.stdout
    assert TOKEN not in done.stdout


# Settings that cannot be used.


# Stands in for the cluster; tests/unit/supervisor/report has the rest of the way.
FAKE_REPORT = """
import sys
from supervisor import report
report.report_once = lambda cluster, *report: print(cluster.aimodel_name, cluster.namespace, *report)
from supervisor.main import main
sys.exit(main([]))
"""


def test_wrong_settings_are_printed_and_reported(tmp_path: Path) -> None:
    """Spec 2: a line each, reported as a ConfigurationError, exit 78."""
    wrong = {"MAX_PROCESS_NUM": "many", "CPU_HIGH": "hot", "AIMODEL_NAME": "m", "AIMODEL_NAMESPACE": "prod"}
    done = subprocess.run(
        [sys.executable, "-c", FAKE_REPORT],
        env={**os.environ, **REMOTE, **wrong, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=3 * TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 78
    first, second = done.stderr.splitlines()
    assert first.startswith("MAX_PROCESS_NUM is 'many', not a whole number; it must be")
    assert second.startswith("CPU_HIGH is 'hot'")
    text = f"The node's settings cannot be used: {first}; {second}"
    assert done.stdout == f"m prod ConfigurationError {text}\n"


def test_settings_without_an_aimodel_are_printed_and_not_reported(tmp_path: Path) -> None:
    done = run(environ={"AIMODEL_NAME": "Not A Name"}, cwd=tmp_path)
    assert done.returncode == 78
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "NODE_TYPE", "MODEL_NAME", "PULSAR_URL", "AIMODEL_NAME",
    ]  # fmt: skip
