"""The notify protocol, on real datagram sockets."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator

import pytest

from supervisor.observability import systemd as notify
from tests.support.paths import ROOT
from tests.support.wait import until

TIMEOUT = 10


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(TIMEOUT)

    def next(self) -> dict[str, str]:
        """The next message: its assignments."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def has_message(self, within: float = 0) -> bool:
        """Whether one is there by now, or comes within so many seconds."""
        return bool(select.select([self.socket], [], [], within)[0])

    def forget(self) -> None:
        """Take away what has come."""
        while self.has_message():
            self.next()


@pytest.fixture(params=["path", *(["abstract"] if sys.platform == "linux" else [])])
def systemd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    """Both kinds of address that systemd gives."""
    # A path of a Unix socket has room for about a hundred characters, which pytest's folders can exceed.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        name = f"@workernode-test-{uuid.uuid4().hex}" if request.param == "abstract" else f"{folder}/s"
        one = Systemd(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield one
        one.socket.close()


@pytest.mark.parametrize(
    ("send", "received"),
    [
        (lambda: notify.ready(), {"READY": "1"}),
        (lambda: notify.watchdog(), {"WATCHDOG": "1"}),
        (lambda: notify.status("takes tasks, 3 in flight"), {"STATUS": "takes tasks, 3 in flight"}),
        (lambda: notify.status("für\nREADY=1\n alle \udcff"), {"STATUS": "für READY=1 alle ?"}),
        (lambda: notify.status("x" * 5000), {"STATUS": "x" * notify.LONGEST_STATUS}),
        (lambda: notify.stopping(45.5), {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "45500000"}),
        (lambda: notify.extend_timeout(-1), {"EXTEND_TIMEOUT_USEC": "0"}),
    ],
    ids=["ready", "watchdog", "status", "a status of several lines", "a long status", "stopping", "extend"],
)
def test_systemd_gets_each_message(systemd: Systemd, send: object, received: dict[str, str]) -> None:
    assert callable(send)
    assert send() is True
    assert systemd.next() == received
    assert not systemd.has_message()


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens-here"])
def test_without_systemd_nothing_is_sent_and_nothing_raised(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready()
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify.watchdog()


def test_a_systemd_that_hangs_does_not_hang_the_node(systemd: Systemd) -> None:
    """Its queue is finite: once it is full, the next message is given up in bounded time."""
    sent = 0
    while notify.watchdog():
        sent += 1
        assert sent < 100_000
    assert sent
    systemd.forget()
    assert notify.watchdog()  # and it works again once systemd does


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", "", 15.0),
        ("30000000", "its own", 15.0),
        ("30000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
        ("-5", "", None),
    ],
)
def test_the_watchdog_interval_is_half_of_watchdogsec(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, interval: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "its own" else pid)
    assert notify.watchdog_interval() == interval


LOOP = """
import time
from supervisor.observability import systemd as notify
while notify.watchdog():
    time.sleep(notify.watchdog_interval())
"""


def test_a_stopped_process_sends_no_watchdog_messages_until_it_is_continued(systemd: Systemd) -> None:
    """SIGSTOP of a process that sends signs of life: systemd gets no more of them, which trips its watchdog."""
    environ = {**os.environ, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": ""}
    with subprocess.Popen([sys.executable, "-c", LOOP], env=environ, cwd=ROOT) as process:
        try:
            for _ in range(3):
                assert systemd.next() == {"WATCHDOG": "1"}
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            systemd.forget()  # what it had sent before
            assert not systemd.has_message(within=0.2)  # ten times the WatchdogSec of this unit
            process.send_signal(signal.SIGCONT)
            until(systemd.has_message, TIMEOUT, "sign of life")
        finally:
            process.kill()
