"""The node as a process (tests/support/node.py), with a stand-in that starts children and writes lines."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.wait import until, until_equal
from tests.unit.support.http_client import TIMEOUT

STAND_IN = """
import json, os, signal, subprocess, sys, threading, http.server, multiprocessing, time

def sleep(): time.sleep(600)

class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = os.path.exists("ready")
        text = b'# HELP x\\nx_total{a="b c"} 2.0\\n' if self.path == "/metrics" else b"because"
        self.send_response(200 if ready or self.path == "/metrics" else 503)
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_): pass

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    start = multiprocessing.get_context("forkserver")
    for _ in range(2): start.Process(target=sleep).start()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    host, port = os.environ["STATUS_ADDR"].split(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    started = {"message": "started", "canary": os.environ.get("CANARY"), "names": sorted(os.environ)}
    try:  # an exit that is not forced waits for the two processes
        print(json.dumps(started), flush=True)
        print("plain words", file=sys.stderr, flush=True)
        while True: time.sleep(600)
    finally:
        os._exit(7)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Node]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    with Node({"CANARY": 5, "ABSENT": None}, tmp_path, command=[sys.executable, str(script)]) as node:
        yield node


def test_node_is_ready_when_readyz_says_so(stand_in: Node, tmp_path: Path) -> None:
    assert "because" in stand_in.wait_not_ready()
    (tmp_path / "ready").touch()
    assert stand_in.wait_ready() is stand_in
    assert stand_in.metrics() == {'x_total{a="b c"}': 2.0}


def test_node_has_only_the_environment_it_is_given(stand_in: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.wait_log("plain words")
    until(stand_in.logs, TIMEOUT, "JSON line")
    (line,) = stand_in.logs()
    assert line["canary"] == "5"
    assert set(line["names"]) - {"LC_CTYPE"} == {"PATH", "HOME", "STATUS_ADDR", "CANARY", "NODE_UNDER_TEST"}
    assert stand_in.stderr_lines == ["plain words"]
    assert "plain words" in stand_in.tail()


def test_workers_are_the_forkserver_s_children(stand_in: Node) -> None:
    until_equal(lambda: len(stand_in.workers()), 2, TIMEOUT, "two workers")
    assert len(stand_in.tree()) == 5  # two workers, forkserver, resource tracker, the detached child
    assert stand_in.rss_bytes() > 1 << 20
    os.kill(stand_in.workers()[0], signal.SIGKILL)
    until_equal(lambda: len(stand_in.workers()), 1, TIMEOUT, "one worker")


def test_orphans_of_a_killed_node_are_found_and_killed(stand_in: Node) -> None:
    stand_in.wait_log("plain words")
    until_equal(lambda: len(stand_in.workers()), 2, TIMEOUT, "two workers")
    stand_in.kill()
    assert stand_in.wait_exit() == -signal.SIGKILL
    assert len(stand_in.processes_left()) >= 1  # the detached child lives on
    with pytest.raises(AssertionError, match="no end of all processes"):
        stand_in.wait_gone(0.01)
    stand_in.close()
    assert stand_in.processes_left() == []


def test_sigterm_and_the_exit_code(stand_in: Node, tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    stand_in.wait_ready().sigterm()
    assert stand_in.wait_exit() == 7
    assert not stand_in.running


def test_a_node_that_exits_at_once_raises_an_error_with_its_log(tmp_path: Path) -> None:
    with Node({}, tmp_path, command=[sys.executable, "-c", "print('no luck'); raise SystemExit(78)"]) as node:
        with pytest.raises(RuntimeError, match=r"exited with 78(.|\n)*no luck"):
            node.wait_ready()
        assert node.wait_exit() == 78
