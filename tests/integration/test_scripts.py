"""start.sh and ai.sh as their user runs them: in a copy of the checkout, whose path has a space, from another folder.

The parts are the real ones. Where Docker's engine would run, a stand-in `docker` keeps what it was called with.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from devstack import startup
from devstack.broker import Broker
from devstack.gateway import Gateway
from devstack.ports import free_port
from tests.support.paths import ROOT
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

PATIENCE = 200.0  # seconds; a bound for a broken run
MARK = "START_UNDER_TEST"  # rides in the environment of everything that start.sh starts: that is how orphans are found
UP = "everything is up"
CANARY = "sk-canary-1c0ffee5"


class Run:
    """One start.sh under way; `output` grows as it speaks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.output += line

    def until_up(self) -> Run:
        def up() -> bool:
            assert self.process.poll() is None or UP in self.output, "it has ended"
            return UP in self.output

        until(up, PATIENCE, f"start.sh that is up: {self.output}")
        return self

    def end(self) -> tuple[int, str]:
        """Its exit code and its output."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code, self.output


class Checkout:
    """A copy of the project with a virtual environment in it, so that nothing is installed."""

    def __init__(self, folder: Path, broker_url: str, upstream: FakeUpstream) -> None:
        self.folder = folder / "the clone"
        self.folder.mkdir()
        for package in ("workernode", "supervisor", "devstack"):
            shutil.copytree(ROOT / package, self.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("start.sh", "ai.sh", "local.sh", "WorkerNode.py", "setup.cfg", "pyproject.toml"):
            shutil.copy2(ROOT / name, self.folder)
        (self.folder / ".venv").mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (self.folder / ".venv" / name).symlink_to(Path(sys.prefix, name))
        sums = "cat setup.cfg pyproject.toml | cksum"
        done = subprocess.run(["bash", "-c", sums], cwd=self.folder, capture_output=True, text=True, check=True)
        (self.folder / ".venv" / ".tests-stamp").write_text(f"local,kubernetes,dev {done.stdout}")
        self.port = free_port()
        self.status_port = free_port()
        self.run_folder = self.folder / ".run" / str(self.port)
        self.mark = uuid.uuid4().hex
        self.env = {
            **{name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME", "JAVA_HOME") if name in os.environ},
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "TMPDIR": str(folder),
            MARK: self.mark,
            "GATEWAY_PORT": str(self.port),
            "STATUS_ADDR": f"127.0.0.1:{self.status_port}",
            "PULSAR_URL": broker_url,
            "RES_TOPIC_NAME": f"res-{self.mark}",
            "MODEL_NAME": f"m-{self.mark}",
            "API_URL": upstream.api_url,
            "API_KEY": CANARY,
            "WORKER_PROCESSES": "1",
        }
        self.runs: list[Run] = []
        upstream.models = [self.env["MODEL_NAME"]]
        (folder / "bin").mkdir()
        self.program("docker", "exit 1")  # no engine, whatever this machine has

    def program(self, name: str, script: str) -> None:
        """Put a program of this name before those of the machine."""
        path = Path(self.env["PATH"].partition(":")[0], name)
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, *arguments: str, **variables: str | None) -> Run:
        env = {name: value for name, value in {**self.env, **variables}.items() if value is not None}
        run = Run(
            subprocess.Popen(
                [self.folder / "start.sh", *arguments],
                cwd="/",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # a Ctrl-C at the test's terminal is not its
            )
        )
        self.runs.append(run)
        return run

    def ask(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """./ai.sh, in an environment that knows nothing of start.sh's but the port."""
        env = {"PATH": self.env["PATH"], "GATEWAY_PORT": str(self.port), **variables}
        return subprocess.run(
            [self.folder / "ai.sh", *arguments],
            cwd="/",
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def processes(self, *words: str) -> list[psutil.Process]:
        """What lives of all that start.sh started, with these words in its command line."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    line = " ".join(process.cmdline())
                    found += [process] if all(word in line for word in words) else []
            except psutil.Error:
                continue
        return found

    def all_gone(self) -> None:
        until(lambda: not self.processes(), PATIENCE, f"end of every process: {self.processes()}")
        for port in (self.port, self.status_port):
            assert not startup.is_taken(port), port
        assert not list(self.folder.parent.glob("workernode-start-*"))


@pytest.fixture
def checkout(tmp_path: Path, broker: Broker, upstream: FakeUpstream) -> Iterator[Checkout]:
    one = Checkout(tmp_path, broker.url, upstream)
    yield one
    for process in one.processes():
        process.kill()
    for run in one.runs:
        run.end()


# start.sh.


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


# ai.sh, against a gateway that the test answers for.


@pytest.fixture
def asked(checkout: Checkout) -> Iterator[queue.SimpleQueue[Any]]:
    """The bodies that the gateway at the checkout's port has taken; each is answered."""
    bodies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def publish(topic: str, payload: bytes) -> None:
        task = json.loads(payload)
        bodies.put(task["data"])
        threading.Thread(target=answer, args=(task["request_id"], task["stream"]), daemon=True).start()

    def answer(request_id: str, stream: bool) -> None:
        waiting = gateway.state.stream if stream else gateway.state.plain
        channel = until(lambda: waiting.find(request_id), PATIENCE, "registered id")
        assert channel is not None
        channel.send('{"answer":1}', lambda: False)
        if stream:
            channel.close()

    gateway = Gateway(publish, checkout.port)
    gateway.start()
    yield bodies
    gateway.close()


def test_ai_asks_and_shows_the_output_of_curl(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    done = checkout.ask()
    assert (done.returncode, done.stdout) == (0, '{"answer":1}\n')
    assert f"POST /api/v1/chat/completions HTTP/1.1\n> Host: localhost:{checkout.port}" in done.stderr.replace("\r", "")
    message = {"role": "user", "content": "Hello!"}
    assert asked.get() == {"model": "gemma3-270m", "messages": [message], "stream": False}


def test_ai_streams(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    done = checkout.ask("stream", "Who", "are you?")
    assert (done.returncode, done.stdout) == (0, 'data: {"answer":1}\n\ndata: [DONE]\n\n')
    body = asked.get()
    assert body["stream"] is True
    assert body["messages"] == [{"role": "user", "content": "Who are you?"}]


def test_ai_asks_the_served_model_unless_model_name_is_set(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    checkout.run_folder.mkdir(parents=True)
    (checkout.run_folder / "model").write_text("served")
    checkout.ask()
    checkout.ask(MODEL_NAME="asked for")
    assert [asked.get()["model"], asked.get()["model"]] == ["served", "asked for"]


QUESTIONS = [
    *('a "quote" and \\ and é\nand a line', "@etc", "%x", ":y", '{"a":1}', "[1]", "true", "12", "null", "$(id) `id`")
]


def with_jo(checkout: Checkout) -> None:
    """A stand-in that knows the two forms that ai.sh uses, where the real jo is not installed."""
    if not shutil.which("jo"):
        checkout.program("jo", f'exec "{sys.executable}" -c "$(cat <<\'E\'\n{JO}\nE\n)" "$@"')


JO = """
import json, sys
def value(text):
    if text.startswith("@"):
        return open(text[1:]).read()
    try:
        return json.loads(text)
    except ValueError:
        return text
words = sys.argv[1:]
if words[0] == "-a":
    made = [value(word) for word in words[1:]]
else:
    made = {name: value(text) for name, _, text in (word.partition("=") for word in words)}
print(json.dumps(made))
"""


def without_jo(checkout: Checkout) -> None:
    """A PATH on which jo is not."""
    folder = Path(checkout.env["PATH"].partition(":")[0])
    for program in ("bash", "dirname", "cat", "curl", "apt-get"):
        (folder / program).symlink_to(shutil.which(program) or "/bin/true")
    (folder / "python3").symlink_to(sys.executable)
    checkout.env["PATH"] = str(folder)


@pytest.mark.parametrize("builder", [with_jo, without_jo])
def test_any_question_arrives_unchanged(
    checkout: Checkout, asked: queue.SimpleQueue[Any], builder: Callable[[Checkout], None]
) -> None:
    builder(checkout)
    for question in QUESTIONS:
        assert checkout.ask(question).returncode == 0
        assert asked.get()["messages"] == [{"role": "user", "content": question}]


def test_without_jo_one_line_says_how_to_install_it(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    without_jo(checkout)
    done = checkout.ask()
    assert done.returncode == 0
    [hint] = [line for line in done.stderr.splitlines() if line.startswith("ai.sh:")]
    assert hint == "ai.sh: python3 builds the JSON, because jo is not installed: sudo apt-get install jo"


def test_if_nothing_listens_ai_says_what_to_do(checkout: Checkout) -> None:
    done = checkout.ask()
    assert done.returncode == 7
    assert "Run ./start.sh in another terminal" in done.stderr


def test_one_reachable_broker_of_several_is_enough(broker: Broker) -> None:
    assert startup.reachable(f"pulsar://127.0.0.1:1,{broker.url.removeprefix('pulsar://')}") == ""
