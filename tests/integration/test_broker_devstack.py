"""The development broker on the real Pulsar: it starts, and goes with whoever started it. test_broker.py kills it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pulsar
import pytest
import requests

from devstack.broker import Broker
from devstack.ports import free_port
from tests.support.tokens import ADMIN
from tests.support.wait import until

TIMEOUT = 60
MAIN_CLASS = "org.apache.pulsar.PulsarStandaloneStarter"
# Another Pulsar starts beside those of the run in here, on a machine that may be busy.
pytestmark = pytest.mark.timeout(400)


def start_command(folder: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "devstack.broker", "run", "--dir", str(folder),
        "--port", str(free_port()), "--admin-port", str(free_port()),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def java_below(pid: int) -> psutil.Process | None:
    """The broker's process among the descendants of another, if it is there; before it, a Java only tells its version.
    """
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if process.name() == "java" and MAIN_CLASS in process.cmdline():
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def broker_started_by(pid: int) -> psutil.Process:
    """Wait for the broker's process, not until it is ready."""
    found = until(lambda: java_below(pid), TIMEOUT, "the broker's process")
    assert found is not None
    return found


def test_the_command_prints_ready_and_stops_the_broker_at_its_end(tmp_path: Path) -> None:
    with start_command(tmp_path) as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("ready pulsar://127.0.0.1:")
        jvm = broker_started_by(command.pid)
        command.terminate()
        assert command.wait(TIMEOUT) == 0
    until(lambda: is_gone(jvm), TIMEOUT, "the broker goes with the command that ran it")


def test_the_broker_goes_when_its_command_is_killed(tmp_path: Path) -> None:
    with start_command(tmp_path) as command:
        jvm = broker_started_by(command.pid)
        command.kill()
    until(lambda: is_gone(jvm), TIMEOUT, "the broker goes with the command that ran it")


def test_the_command_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    inner = [sys.executable, "-m", "devstack.broker", "run", "--dir", str(tmp_path)]
    inner += ["--port", str(free_port()), "--admin-port", str(free_port())]
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", script, *inner], stdout=subprocess.DEVNULL) as parent:
        jvm = broker_started_by(parent.pid)
        family = [*psutil.Process(parent.pid).children(), jvm]
        parent.kill()
    until(lambda: all(is_gone(process) for process in family), TIMEOUT, "command and broker go with their parent")


def test_a_broker_with_authentication_gets_ready_with_the_token(guarded: Broker) -> None:
    topics = f"{guarded.admin_url}/admin/v2/persistent/public/default"
    assert requests.get(topics, timeout=TIMEOUT).status_code == 401
    client = pulsar.Client(guarded.url, authentication=pulsar.AuthenticationToken(ADMIN))
    client.create_producer(f"for-members-only-{uuid.uuid4().hex}").send(b"let in")
    client.close()
