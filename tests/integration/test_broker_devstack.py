"""The development broker on the real Pulsar: it starts, is killed, comes back with its messages, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pulsar
import pytest
import requests

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.support.tokens import ADMIN
from tests.support.wait import until

TIMEOUT = 60
MAIN_CLASS = "org.apache.pulsar.PulsarStandaloneStarter"
# A second Pulsar starts beside the session's in here, on a machine that may be busy.
pytestmark = pytest.mark.timeout(400)


@contextmanager
def client_of(url: str) -> Iterator[pulsar.Client]:
    client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield client
    finally:
        client.close()


def subscribe(client: pulsar.Client, topic: str) -> pulsar.Consumer:
    return client.subscribe(
        topic, "all", pulsar.ConsumerType.Shared, initial_position=pulsar.InitialPosition.Earliest
    )


def take(consumer: pulsar.Consumer, count: int) -> set[bytes]:
    """So many messages, acknowledged."""
    seen: set[bytes] = set()
    while len(seen) < count:
        message = consumer.receive(TIMEOUT * 1000)
        consumer.acknowledge(message)
        seen.add(message.data())
    return seen


def test_messages_survive_a_kill_and_a_second_broker_shares_nothing(broker: Broker, tmp_path: Path) -> None:
    published = {f"message {number}".encode() for number in range(1000)}
    second = Broker(find_or_get(), tmp_path, port=free_port(), admin_port=free_port())
    with second:
        with client_of(second.url) as client:
            subscribe(client, "survivors")
            producer = client.create_producer("survivors")
            for content in published:
                producer.send_async(content, lambda *_: None)
            producer.flush()
            killed = second.pid
            second.kill()
        assert not second.is_alive()
        second.start()
        second.wait_ready()
        assert second.pid != killed
        with client_of(second.url) as client:
            assert take(subscribe(client, "survivors"), len(published)) == published
        topics = requests.get(f"{broker.admin_url}/admin/v2/persistent/public/default", timeout=TIMEOUT).json()
        assert not [topic for topic in topics if "survivors" in topic]


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
