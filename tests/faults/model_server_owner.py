"""The thread that owns a model server, as a node's main loop does; and what is left of the server's processes."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests

from supervisor.model_server.limits import Limits
from supervisor.model_server.model_server import Event, EventKind, ModelServer
from tests.support.paths import ROOT
from tests.support.wait import until
from workernode import settings

STANDIN = ROOT / "tests" / "support" / "llamafile_standin.py"
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(STANDIN))}"
SECRETS = {"API_KEY": "sk-node-secret", "PULSAR_TOKEN": "pulsar-secret"}
LONG = 60.0  # a bound for a broken run

# The real limits, in a tenth of the time and less.
QUICK = Limits(
    pause_first_s=0.05,
    pause_longest_s=0.2,
    pause_failed_s=0.5,
    grace_s=1.0,
    start_silence_s=1.5,
    start_limit_s=60.0,
    silence_s=1.5,
    limit_s=60.0,
    stuck_s=2.5,  # as in the real ones, more than silence_s
    probe_starting_s=0.05,
    probe_ready_s=0.1,
    engine_cpus=0.1,  # the answers to so many probes cost some
    probe_timeout_s=0.5,
)


class Owner:
    """The thread that owns the model server, as the node's main loop does."""

    def __init__(self, environ: dict[str, str], limits: Limits = QUICK, **more: str) -> None:
        variables = {
            "NODE_TYPE": "local",
            "MODEL_NAME": "standin",
            "PULSAR_URL": "pulsar://localhost",
            "PULSAR_TOKEN": SECRETS["PULSAR_TOKEN"],
            "LOCAL_COMMAND": COMMAND,
            **more,
        }
        self.woken = threading.Event()
        environ = {**os.environ, **SECRETS, **environ}
        self.llamafile = ModelServer(settings.load(variables), self.woken.set, environ, limits)
        self.events: list[Event] = []
        self.pids: set[int] = set()

    def turn(self) -> None:
        """One turn of the loop: wait for what comes first, then tick."""
        due = self.llamafile.next_wakeup()
        self.woken.wait(0.1 if due is None else min(0.1, max(0.0, due - time.monotonic())))
        self.woken.clear()
        began = time.monotonic()
        self.events += self.llamafile.tick(began)
        assert time.monotonic() - began < 1.0, "the owner's thread was made to wait"
        if self.llamafile.pid:
            self.pids.add(self.llamafile.pid)

    def run_until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < deadline, f"no {what}; {self.llamafile.state}, {self.llamafile.tail()}"
            self.turn()

    def wait(self, what: EventKind) -> Event:
        """Run until this event, and take it and all before it away."""
        self.run_until(lambda: any(event.kind is what for event in self.events), str(what))
        index = [event.kind for event in self.events].index(what)
        event = self.events[index]
        del self.events[: index + 1]
        return event

    def start(self) -> None:
        self.llamafile.start(time.monotonic())

    def started(self) -> Owner:
        self.start()
        self.wait(EventKind.READY)
        return self

    def ask(self) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.llamafile.api_key}"}
        return requests.post(self.llamafile.base_url, json={"messages": []}, headers=headers, timeout=LONG)


def alive(pid: int) -> bool:
    """Whether the process runs: one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group(pid: int) -> list[int]:
    """Everything alive in the process group."""
    found = []
    for each in psutil.pids():
        try:
            if os.getpgid(each) == pid and alive(each):
                found.append(each)
        except ProcessLookupError:
            continue
    return found


def pid_in(path: Path) -> int:
    return int(until(lambda: path.read_text() if path.exists() else "", LONG, f"{path.name}"))
