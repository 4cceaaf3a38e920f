"""Starting a broker, without a real one: its configuration, and its errors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker
from devstack.ports import free_port
from devstack.terminal import StackError
from tests.unit.devstack.broker.support import make_pulsar


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(("which", "variable"), [("port", "PULSAR_PORT"), ("admin_port", "PULSAR_ADMIN_PORT")])
def test_the_error_about_a_taken_port_names_its_holder_and_the_variable_to_change(
    tmp_path: Path, listener: int, which: str, variable: str
) -> None:
    ports = {"port": free_port(), "admin_port": free_port(), which: listener}
    home = make_pulsar(tmp_path / "pulsar")
    with pytest.raises(StackError) as caught:
        Broker(home, tmp_path / "run", port=ports["port"], admin_port=ports["admin_port"]).start()
    assert f"{listener} is taken by process {os.getpid()} (" in str(caught.value)
    assert f"set {variable} to another one" in str(caught.value)


def test_the_error_of_a_broker_that_does_not_start_has_the_reason_and_the_log(tmp_path: Path) -> None:
    home = make_pulsar(tmp_path / "pulsar")
    (home / "bin" / "pulsar").write_text("#!/bin/sh\necho 'Error: no room'\nexit 1\n")
    (home / "bin" / "pulsar").chmod(0o755)
    broker = Broker(home, tmp_path / "run", port=free_port(), admin_port=free_port())
    with pytest.raises(StackError) as caught, broker:
        pass
    assert "did not start: Error: no room" in str(caught.value)
    assert str(broker.log_path) in str(caught.value)
    assert not broker.is_alive()


def test_the_conf_file_has_each_entry_once_and_only_its_owner_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "sk-canary")
    monkeypatch.setenv("PULSAR_STANDALONE_USE_ZOOKEEPER", "1")
    home = make_pulsar(tmp_path / "pulsar")
    (home / "bin" / "pulsar").write_text("#!/bin/sh\nenv\n")
    (home / "bin" / "pulsar").chmod(0o755)
    broker = Broker(
        home, tmp_path / "run", port=free_port(), admin_port=free_port(), conf={"tokenSecretKey": "file:///k"}
    )
    broker.start()
    assert broker.wait(30)
    conf = tmp_path / "run" / "standalone.conf"
    entries = [line.partition("=")[0] for line in conf.read_text().splitlines() if line]
    assert len(entries) == len(set(entries))
    assert f"brokerServicePort={broker.port}\n" in conf.read_text()
    assert "tokenSecretKey=file:///k\n" in conf.read_text()
    assert conf.stat().st_mode & 0o077 == 0
    environment = broker.log_path.read_text()
    assert f"PULSAR_STANDALONE_CONF={conf}\n" in environment
    assert "sk-canary" not in environment
    assert "ZOOKEEPER" not in environment


def test_stop_is_legal_twice_and_without_a_start(tmp_path: Path) -> None:
    broker = Broker(make_pulsar(tmp_path / "pulsar"), tmp_path / "run")
    broker.stop()
    broker.stop()
    broker.kill()
    assert broker.pid is None
