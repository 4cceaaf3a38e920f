"""Free ports, and who listens on a port."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack import ports
from devstack.ports import free_port, holder_of
from devstack.terminal import StackError

FEW = range(9_000, 9_200)
RESERVE_60 = f"""
from devstack import ports
ports.FREE_PORTS = {FEW}
print(*(ports.free_port() for _ in range(60)), flush=True)
input()
"""


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_an_unknown_holder_of_a_port_is_another_program(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert holder_of(listener) == "another program"


def test_a_free_port_is_given_once_although_nobody_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance alone, 120 calls would give some of 200 ports twice. A process that has ended keeps none."""
    monkeypatch.setattr(ports, "FREE_PORTS", FEW)
    with subprocess.Popen(
        [sys.executable, "-c", RESERVE_60], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdin
        others = {int(port) for port in other.stdout.readline().split()}
        own = [free_port() for _ in range(60)]
        assert len(set(own) | others) == 120
        other.stdin.close()
    later = {free_port() for _ in range(80)}
    assert len(later) == 80
    assert later & others


def test_without_a_file_for_reserved_ports_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_reservations", ports._Reservations())
    monkeypatch.setattr(ports.tempfile, "gettempdir", lambda: str(tmp_path / "missing"))
    with pytest.raises(StackError, match=r"missing/workernode-ports-\d+, .* cannot be opened .*set TMPDIR"):
        free_port()
