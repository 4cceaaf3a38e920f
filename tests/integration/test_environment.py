"""The environment as a user gets it wrong, and right: `python3 WorkerNode.py` as a process (issue 3, 5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.broker import Broker
from tests.faults.testbed import Testbed, open_testbed
from tests.support.fixtures import API_KEY
from tests.support.node import Node
from workernode.settings import VARIABLES

RIGHT = {"NODE_TYPE": "remote", "MODEL_NAME": "m", "API_URL": "http://127.0.0.1:9", "API_KEY": API_KEY}

# A value that is wrong → the start of the line that reports it.
WRONG = {
    "NODE_TYPE": "cloud",
    "MODEL_NAME": "a/b",
    "API_URL": "example.com",
    "API_KEY": f"'{API_KEY}'",
    "MAX_PROCESS_NUM": "0",
    "WORKER_PROCESSES": "-1",
    "PULSAR_URL": "http://127.0.0.1:6650",
    "PULSAR_TOKEN": "two words",
    "RES_TOPIC_NAME": "a topic",
    "DEBUG": "perhaps",
    "LOG_FORMAT": "xml",
    "AIMODEL_NAME": "Upper Case",
    "TASK_TIMEOUT": "soon",
    "CONNECT_TIMEOUT": "nan",
    "READ_TIMEOUT": "-5",
    "MAX_REDELIVERIES": "1.5",
    "NAK_DELAY": "1e9",
    "DRAIN_TIMEOUT": "inf",
    "STATUS_ADDR": "9464",
    "CPU_HIGH": "200",
    "MEMORY_HIGH": "0",
    "SAMPLE_INTERVAL": "0",
    "REPLY_HOSTS": "http://gw",
}


def ends(tmp_path: Path, environ: dict[str, str]) -> list[str]:
    """Start a node that cannot start; gives its output."""
    with Node(dict(environ), tmp_path) as node:
        assert node.wait_exit(30) == 78
        node.wait_gone()
        assert node.stdout_lines == []
        assert "Traceback" not in node.output
        assert API_KEY not in node.output
        return node.stderr_lines


def test_all_errors_in_the_settings_are_printed_at_once_a_line_each(tmp_path: Path) -> None:
    lines = ends(tmp_path, {**RIGHT, "NODE_TYPE": "remote", **{k: v for k, v in WRONG.items() if k != "NODE_TYPE"}})
    assert [line.split()[0] for line in lines] == [name for name in VARIABLES if name in WRONG and name != "NODE_TYPE"]
    assert all("; it must be " in line for line in lines), "each line names what the value must be"


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, ["NODE_TYPE", "MODEL_NAME", "PULSAR_URL"]),
        ({"NODE_TYPE": "remote"}, ["MODEL_NAME", "API_URL", "API_KEY", "PULSAR_URL"]),
        ({"NODE_TYPE": "api", "MODEL_NAME": "", "API_URL": "", "API_KEY": "", "PULSAR_URL": ""},
         ["MODEL_NAME", "API_URL", "API_KEY", "PULSAR_URL"]),
        ({"NODE_TYPE": "local"}, ["MODEL_NAME", "PULSAR_URL"]),
        ({"NODE_TYPE": "cloud"}, ["NODE_TYPE", "MODEL_NAME", "PULSAR_URL"]),
    ],
    ids=["nothing", "remote", "remote_by_its_older_name_and_all_empty", "local", "wrong_kind"],
)  # fmt: skip
def test_missing_variables_are_named(tmp_path: Path, environ: dict[str, str], missing: list[str]) -> None:
    assert [line.split()[0] for line in ends(tmp_path, environ)] == missing


def test_an_empty_variable_is_unset_and_the_env_file_fills_missing_ones(broker: Broker, tmp_path: Path) -> None:
    """As the platform's operator starts it, which injects all variables, unset ones empty."""
    with open_testbed(broker, tmp_path) as one:
        in_file = {name: str(one.variables.pop(name)) for name in ("API_URL", "API_KEY", "MODEL_NAME", "PULSAR_URL")}
        lines = [f"{name}={value}" for name, value in in_file.items()]
        (tmp_path / ".env").write_text("\n".join([*lines, "MAX_PROCESS_NUM=wrong", "DEBUG=true", ""]))
        empty = {name: "" for name in VARIABLES if name not in one.variables and name != "STATUS_ADDR"}
        one.start(**empty, MAX_PROCESS_NUM=3)  # which rules over the file's
        _answers(one)


def _answers(one: Testbed) -> None:
    for stream in (False, True):
        assert one.answer(one.platform.ask("hello", stream)).text
    (request, _) = one.upstream.requests
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    record = one.platform.wait_records(count=2)[0]
    assert record["ai_model_name"] is None
    assert [line for line in one.node.logs() if line.get("slots") == 3]
    assert [line for line in one.node.logs() if line["level"] == "DEBUG"], "DEBUG of the file"
