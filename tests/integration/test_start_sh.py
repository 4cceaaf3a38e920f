"""start.sh as its user runs it: in a copy of the checkout, whose path has a space, from another folder.

The parts are the real ones. Where Docker's engine would run, a stand-in `docker` keeps what it was called with.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from devstack import startup
from devstack.broker import Broker
from devstack.gateway import Gateway
from devstack.ports import free_port
from tests.integration.checkout import CANARY, Checkout
from tests.support.paths import ROOT
from tests.support.upstream import FakeUpstream


def test_start_runs_a_remote_node_prints_how_to_ask_and_ctrl_c_stops_all(checkout: Checkout) -> None:
    run = checkout.start().until_up()
    assert "your" in run.output
    assert "./ai.sh" in run.output
    assert str(checkout.run_folder) in run.output
    plain = checkout.ask("Hello!")
    assert plain.returncode == 0, plain.stderr
    assert startup.answer(written(checkout, plain.stdout))
    stream = checkout.ask("stream", "Hello!")
    assert stream.returncode == 0, stream.stderr
    assert " 5 chunks: " in startup.stream(written(checkout, stream.stdout))
    for process in checkout.processes():
        assert CANARY not in " ".join(process.cmdline())
    run.process.send_signal(signal.SIGINT)
    code, output = run.end()
    assert code == 130
    assert "stopping node" in output
    checkout.all_gone()
    assert CANARY not in output + "".join(log.read_text() for log in checkout.run_folder.glob("*.log"))


def written(checkout: Checkout, text: str) -> str:
    path = checkout.folder / "body"
    path.write_text(text)
    return str(path)


def test_check_shows_both_answers_and_stops_all(checkout: Checkout) -> None:
    code, output = checkout.start("--check").end()
    assert code == 0, output
    assert "The model answered: " in output
    assert "The model answered in 5 chunks: " in output
    assert output.count("data: {") >= 5
    assert "Both answers came." in output
    checkout.all_gone()


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        pytest.param({"status": 400, "err_msg": "not like this"}, "not like this", id="an error"),
        pytest.param({"chunks": 0}, "no text in the answer", id="no text"),
    ],
)
def test_check_fails_without_real_answers(
    checkout: Checkout, upstream: FakeUpstream, directive: Mapping[str, Any], expected: str
) -> None:
    upstream.mode = directive
    code, output = checkout.start("--check").end()
    assert code == 1, output
    assert expected in output
    checkout.all_gone()


def test_a_folder_that_cannot_be_written_to_is_named_with_what_to_do(checkout: Checkout) -> None:
    checkout.run_folder.parent.write_text("a file where the folder of logs must be, because root may write anywhere")
    code, output = checkout.start("--check").end()
    assert code == 1, output
    assert f"start.sh: the folder {checkout.run_folder} cannot be made anew." in output
    assert "start.sh: Start from a copy of this checkout" in output


UNFIT_NODE = """
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Status(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps({"why": ["the key is refused"], "fitness": "unfit"}, indent=1).encode())

host, _, port = os.environ["STATUS_ADDR"].partition(":")
HTTPServer((host, int(port)), Status).serve_forever()
"""


def test_it_ends_with_what_to_do_when_the_node_is_unfit_at_its_start(checkout: Checkout) -> None:
    (checkout.folder / "WorkerNode.py").write_text(UNFIT_NODE)
    code, output = checkout.start("--check").end()
    assert code == 1, output
    assert "its upstream does not serve it: the key is refused." in output
    assert "API_KEY" in output
    checkout.all_gone()


@pytest.mark.parametrize(("part", "words"), [("gateway", "devstack.gateway"), ("node", "WorkerNode.py")])
def test_when_a_part_dies_all_parts_stop_and_its_log_is_named(checkout: Checkout, part: str, words: str) -> None:
    run = checkout.start().until_up()
    [process] = checkout.processes(words)
    process.kill()
    code, output = run.end()
    assert code == 1
    assert f"start.sh: {part} has ended by itself (exit code 137)" in output
    assert str(checkout.run_folder / f"{part}.log") in output
    checkout.all_gone()


def test_for_a_node_that_cannot_start_the_end_of_its_log_is_shown(checkout: Checkout) -> None:
    code, output = checkout.start(MAX_PROCESS_NUM="many").end()
    assert code == 1
    assert "start.sh: node has ended by itself (exit code 78)" in output
    assert "MAX_PROCESS_NUM" in output
    checkout.all_gone()


def test_a_second_start_names_the_first_and_does_not_touch_it(checkout: Checkout) -> None:
    first = checkout.start().until_up()
    code, output = checkout.start().end()
    assert code == 1
    assert f"another start.sh runs on port {checkout.port}: process {first.process.pid}" in output
    assert "GATEWAY_PORT" in output
    assert checkout.ask().returncode == 0
    first.process.terminate()
    assert first.end()[0] == 143
    checkout.all_gone()


def test_the_next_start_stops_the_processes_of_a_killed_one(checkout: Checkout) -> None:
    first = checkout.start().until_up()
    first.process.kill()
    first.end()
    assert checkout.processes("WorkerNode.py")
    code, output = checkout.start("--check").end()
    assert code == 0, output
    assert output.count("of a start.sh that was killed") == 2
    checkout.all_gone()


def test_all_taken_ports_are_named_with_their_variables(checkout: Checkout) -> None:
    own = f"process {os.getpid()}"
    gateway = Gateway(lambda topic, payload: None, checkout.port)
    try:
        code, output = checkout.start(STATUS_ADDR=gateway.address).end()
    finally:
        gateway.server_close()
    assert code == 1
    assert f"Port {checkout.port} is taken by {own}" in output
    assert "set GATEWAY_PORT to another port" in output
    assert "set STATUS_ADDR to another port" in output
    assert not checkout.processes()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({"MODEL_NAME": ""}, "MODEL_NAME is not set", id="model"),
        pytest.param({"STATUS_ADDR": "off"}, "STATUS_ADDR is off", id="status"),
        pytest.param({"PULSAR_URL": "pulsar://127.0.0.1:1"}, "No broker of PULSAR_URL can be reached", id="broker"),
        pytest.param({"PULSAR_URL": "", "PULSAR_HOME": "/nowhere"}, "no Pulsar in PULSAR_HOME", id="pulsar home"),
    ],
)
def test_wrong_settings_are_reported_before_anything_starts(
    checkout: Checkout, variables: dict[str, str], expected: str
) -> None:
    free = {"PULSAR_PORT": str(free_port()), "PULSAR_ADMIN_PORT": str(free_port())}
    code, output = checkout.start(**variables, **free).end()
    assert code == 1
    assert expected in output
    assert "Traceback" not in output
    assert not (checkout.run_folder / "node.log").exists()


def test_a_failure_names_a_disk_that_is_full(checkout: Checkout) -> None:
    checkout.program("df", 'echo "Filesystem 1024-blocks Used Available Capacity Mounted on"; echo "x 9 9 0 100% /"')
    code, output = checkout.start(PULSAR_URL="pulsar://127.0.0.1:1").end()
    assert code == 1
    assert f"start.sh: the disk of {checkout.folder} is full. Make room" in output


def test_the_env_file_fills_what_the_environment_lacks(checkout: Checkout, upstream: FakeUpstream) -> None:
    model = checkout.env["MODEL_NAME"]
    (checkout.folder / ".env").write_text(f"API_URL={upstream.api_url}\nAPI_KEY='{CANARY}'\nMODEL_NAME={model}\n")
    run = checkout.start(API_URL=None, API_KEY="", MODEL_NAME=None).until_up()
    assert f"node: remote, model {model}" in run.output
    assert checkout.ask().returncode == 0
    assert upstream.requests[0].headers["authorization"] == f"Bearer {CANARY}"
    run.process.terminate()
    run.end()


def test_with_docker_its_images_are_used_and_its_containers_removed(checkout: Checkout, tmp_path: Path) -> None:
    standin = tmp_path / "docker"
    standin.mkdir()
    checkout.program("docker", f'exec "{ROOT}/tests/support/bin/docker" "$@"')
    ports = {"PULSAR_PORT": free_port(), "PULSAR_ADMIN_PORT": free_port()}
    variables = {name: str(port) for name, port in ports.items()}
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    # A HOME without a Pulsar in it, so that Docker's turn comes; a token, which must not be seen.
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": cache, "PULSAR_URL": None, "PULSAR_TOKEN": CANARY}
    code, output = checkout.start("--check", DOCKER_STANDIN=str(standin), **home, **variables).end()
    assert code == 0, output
    calls: list[list[str]] = [json.loads(line) for line in (standin / "calls").read_text().splitlines()]
    assert CANARY not in str(calls)
    pulsar, gateway = (call for call in calls if call[0] == "run")
    broker, admin = ports.values()
    name = f"workernode-pulsar-{checkout.port}"
    assert pulsar[:4] == ["run", "--rm", "--name", name]
    assert [f"127.0.0.1:{broker}:{broker}", f"127.0.0.1:{admin}:{admin}"] == values(pulsar, "-p")
    assert "apachepulsar/pulsar:4.0.8" in pulsar
    assert pulsar[-1].endswith("exec bin/pulsar standalone -nfw -nss -a 127.0.0.1")
    assert gateway == [
        *("run", "--rm", "--name", f"workernode-gateway-{checkout.port}", "--network", "host"),
        *("-e", f"PORT={checkout.port}", "-e", f"PULSAR_URL=pulsar://127.0.0.1:{broker}", "-e", "PULSAR_TOKEN"),
        "youxam/uplion-main:latest",
    ]
    assert ["pull", "apachepulsar/pulsar:4.0.8"] in calls
    for container in (name, f"workernode-gateway-{checkout.port}"):
        assert calls.index(["stop", container]) < len(calls) - 1 - calls[::-1].index(["rm", "-f", container])
    assert not list(standin.glob("*.pid"))
    checkout.all_gone()


def values(call: list[str], flag: str) -> list[str]:
    return [call[place + 1] for place, word in enumerate(call) if word == flag]


def test_our_own_programs_replace_an_image_that_cannot_be_pulled(checkout: Checkout, tmp_path: Path) -> None:
    checkout.program("docker", f'exec "{ROOT}/tests/support/bin/docker" "$@"')
    code, output = checkout.start("--check", DOCKER_STANDIN=str(tmp_path), DOCKER_STANDIN_NO_PULL="1").end()
    assert code == 0, output
    assert "gateway: the project's own development gateway" in output
    checkout.all_gone()


def test_without_python_the_error_says_what_to_install(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    programs = tmp_path / "few"
    programs.mkdir()
    for program in ("bash", "dirname", "id", "mkdir", "rm", "cat", "curl", "sed", "tail"):
        (programs / program).symlink_to(shutil.which(program) or program)
    code, output = checkout.start(PATH=str(programs)).end()
    assert code == 1
    assert "Python 3.10 or newer is needed" in output
    assert "apt install python3 python3-venv" in output


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--frob"], 1), (["--check", "x"], 1)])
def test_wrong_arguments_show_the_usage(checkout: Checkout, arguments: list[str], code: int) -> None:
    got, output = checkout.start(*arguments).end()
    assert got == code
    assert "./start.sh" in output
    assert "--check" in output


def test_one_reachable_broker_of_several_is_enough(broker: Broker) -> None:
    assert startup.reachable(f"pulsar://127.0.0.1:1,{broker.url.removeprefix('pulsar://')}") == ""
