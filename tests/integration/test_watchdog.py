"""What a running node sends to systemd, on a real socket."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.wait import until

WATCHDOG_S = 1.0
TIMEOUT = 30


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(4096):
            self.received += [(time.monotonic(), line) for line in data.decode().splitlines()]

    def lines(self, start: str) -> list[float]:
        """When lines that begin so were heard."""
        return [at for at, line in list(self.received) if line.startswith(start)]

    def close(self) -> None:
        """Listen no more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    one = Systemd(tmp_path / "notify")
    yield one
    one.close()


def test_systemd_gets_ready_watchdog_and_stopping(node: Callable[..., Node], systemd: Systemd) -> None:
    one = node(NOTIFY_SOCKET=str(systemd.path), WATCHDOG_USEC=int(WATCHDOG_S * 1e6))
    until(lambda: systemd.lines("READY=1"), TIMEOUT, "READY=1")
    assert any(line == "STATUS=takes tasks" for _, line in systemd.received)
    until(lambda: len(systemd.lines("WATCHDOG=1")) >= 4, TIMEOUT, "signs of life")

    one.signal(signal.SIGSTOP)

    def silent() -> bool:
        """So long without a sign of life, systemd would have killed it."""
        return time.monotonic() - systemd.lines("WATCHDOG=1")[-1] > 2 * WATCHDOG_S

    until(silent, TIMEOUT, "a watchdog that is tripped")
    one.signal(signal.SIGCONT)
    until(lambda: not silent(), TIMEOUT, "signs of life again")

    one.sigterm()
    assert one.wait_exit() == 0
    assert len(systemd.lines("STOPPING=1")) == 1
    assert systemd.lines("EXTEND_TIMEOUT_USEC=")
