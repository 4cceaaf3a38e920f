"""The node as its user starts it: `python WorkerNode.py` as a process, with its log, its children and its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import psutil

from devstack.ports import free_port
from tests.support.wait import patient, until

ROOT = Path(__file__).resolve().parents[2]

# Rides in the environment of the node and, inherited, of all its descendants: that is how orphans are found.
MARK = "NODE_UNDER_TEST"


class Node:
    """One run of WorkerNode.py, with an environment of what is given, PATH and HOME.

    Args:
        env: the node's variables; values become strings, None leaves a variable out. STATUS_ADDR defaults to a free
            port, so that `wait_ready` has something to ask.
        cwd: the working directory, where `.env` would be read; never the repository's.
        args: command line arguments.
        command: what to run instead of `python WorkerNode.py`.
    """

    def __init__(
        self, env: Mapping[str, object], cwd: Path, args: Sequence[str] = (), command: Sequence[str] | None = None
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.env["STATUS_ADDR"] = f"127.0.0.1:{free_port()}"
        self.env.update({name: str(value) for name, value in env.items() if value is not None})
        self.env[MARK] = self.mark
        self.status_addr = self.env["STATUS_ADDR"]
        self._lines: list[tuple[float, str, str]] = []  # moment, stream, line
        self._known: dict[int, psutil.Process] = {}
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [*(command or [sys.executable, str(ROOT / "WorkerNode.py")]), *args],
            env=self.env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a Ctrl-C at the test's terminal is not the node's
        )
        self.pid = self.process.pid
        self._readers = [
            threading.Thread(target=self._follow, args=(stream, name), daemon=True)
            for stream, name in ((self.process.stdout, "out"), (self.process.stderr, "err"))
        ]
        for reader in self._readers:
            reader.start()

    # Readiness.

    def status(self, path: str = "/readyz", timeout: float = 5) -> tuple[int, str]:
        """Status and body that the node's status address gives; (0, reason) where nobody answers."""
        host, _, port = self.status_addr.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name with labels, as they are written there."""
        status, text = self.status("/metrics")
        assert status == 200, (status, text)
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def wait_ready(self, timeout: float = 30) -> Node:
        """Wait until /readyz answers 200; fails at once when the node has exited. Gives this node."""

        def ready() -> bool:
            if self.process.poll() is not None:
                code = self.wait_exit()  # its last lines may still be in the pipe
                raise RuntimeError(f"the node exited with {code} before it was ready\n{self.tail()}")
            status, body = self.status()
            assert status == 200, (status, body)
            return True

        until(ready, timeout, "ready node")
        self.tree()
        return self

    def wait_not_ready(self, timeout: float = 30) -> str:
        """Wait until /readyz answers 503; gives the reason."""

        def unready() -> str:
            status, body = self.status()
            assert status == 503, (status, body)
            return body or "503"

        return until(unready, timeout, "503 from /readyz")

    # The end.

    def signal(self, number: int) -> None:
        self.tree()
        self.process.send_signal(number)

    def sigterm(self) -> None:
        """Ask it to drain and leave."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the supervisor alone; its children are left to themselves."""
        self.signal(signal.SIGKILL)

    def wait_exit(self, timeout: float = 60) -> int:
        """Wait until the supervisor is gone; gives its exit code (negative: the signal)."""
        timeout = patient(timeout)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the node still runs after {timeout:g} s\n{self.tail()}") from None
        orphans = self.processes_left()  # hold the log's pipe open: its end never comes
        for reader in self._readers:
            reader.join(0.1 if orphans else 5)
        return code

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Kill whatever is left, descendants and orphans too."""
        self.tree()
        if self.running:
            self.process.kill()
        self.process.wait(10)

        def nobody_left() -> bool:
            left = self.processes_left()  # anew each time: a child may have been born while its siblings were killed
            for process in left:
                _kill(process)
            assert not left, left
            return True

        until(nobody_left, 10, "end of all processes")
        for reader in self._readers:
            reader.join(2)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Processes.

    def tree(self) -> list[psutil.Process]:
        """Its living descendants at this moment, grandchildren too, without the supervisor."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._known.update({one.pid: one for one in found})
        return found

    def workers(self) -> list[int]:
        """Pids of the worker processes: children and grandchildren that serve tasks, in the order they were born.

        With the start method forkserver they are children of a server, which with multiprocessing's resource tracker is
        no worker; a local model server is none either.
        """
        return [one.pid for one in sorted(self.tree(), key=_born) if _is_worker(one)]

    def processes_left(self) -> list[psutil.Process]:
        """Every living process of this run: supervisor, descendants, orphans."""
        self.tree()
        found = {one.pid: one for one in self._known.values() if _lives(one)}
        for one in psutil.process_iter():
            try:
                if one.environ().get(MARK) == self.mark and _lives(one):
                    found[one.pid] = one
            except (psutil.Error, OSError):
                continue
        return list(found.values())

    def wait_gone(self, timeout: float = 10) -> None:
        """Wait until no process of this run is left."""

        def gone() -> bool:
            left = self.processes_left()
            assert not left, left
            return True

        until(gone, timeout, "end of all processes")

    def rss_bytes(self) -> int:
        """Resident memory of supervisor and descendants together, in bytes."""
        total = 0
        for one in [psutil.Process(self.pid), *self.tree()]:
            try:
                total += one.memory_info().rss
            except psutil.Error:
                continue
        return total

    # The log.

    @property
    def log_lines(self) -> list[str]:
        """All lines written so far, both streams, in the order they came."""
        return [line for _, _, line in list(self._lines)]

    @property
    def stdout_lines(self) -> list[str]:
        return [line for _, stream, line in list(self._lines) if stream == "out"]

    @property
    def stderr_lines(self) -> list[str]:
        return [line for _, stream, line in list(self._lines) if stream == "err"]

    @property
    def output(self) -> str:
        """Everything written so far, as one text."""
        return "\n".join(self.log_lines)

    def logs(self) -> list[dict[str, Any]]:
        """The lines that are JSON objects, parsed."""
        parsed = (_parsed(line) for line in self.log_lines)
        return [one for one in parsed if one is not None]

    def wait_log(self, wanted: str | Callable[[str], bool], timeout: float = 20) -> str:
        """Wait for a line that contains the text, or that the function accepts; gives the line."""

        def accepts(line: str) -> bool:
            return wanted in line if isinstance(wanted, str) else wanted(line)

        found: list[str] = []
        seen = 0
        timeout = patient(timeout)
        deadline = time.monotonic() + timeout
        with self._changed:
            while not found:
                found = [line for _, _, line in self._lines[seen:] if accepts(line)]
                seen = len(self._lines)
                left = deadline - time.monotonic()
                if not found and (left <= 0 or not self._changed.wait(left)):
                    raise AssertionError(f"no log line with {wanted!r} within {timeout:g} s\n{self.tail()}")
        return found[0]

    def tail(self, count: int = 60) -> str:
        """The last lines of the log, for a person."""
        code = self.process.poll()
        state = "runs" if code is None else f"exited with {code}"
        return "\n".join([f"--- node {self.pid} ({state}), last {count} log lines", *self.log_lines[-count:], "---"])

    def _follow(self, stream: TextIO, name: str) -> None:
        try:
            for line in stream:
                with self._changed:
                    self._lines.append((time.time(), name, line.rstrip("\n")))
                    self._changed.notify_all()
        except ValueError:  # closed under us at the end of the test
            pass


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _born(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return 0


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def _is_worker(process: psutil.Process) -> bool:
    """Whether a descendant is a worker process, not one of multiprocessing's helpers, by its place in the tree."""
    try:
        words = " ".join(process.cmdline())
        parent = process.parent()
        above = " ".join(parent.cmdline()) if parent else ""
    except psutil.Error:
        return False
    helper = "resource_tracker" in words or ("forkserver" in words and "forkserver" not in above)
    return not helper and ("forkserver" in above or "spawn_main" in words)
