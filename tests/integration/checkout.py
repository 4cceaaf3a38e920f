"""A copy of the checkout, whose path has a space, with start.sh and ai.sh as their user runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import psutil

from devstack import startup
from devstack.ports import free_port
from tests.support.paths import ROOT
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

PATIENCE = 200.0  # seconds; a bound for a broken run
MARK = "START_UNDER_TEST"  # in the environment of all that start.sh starts, so that orphans are found
UP = "everything is up"
CANARY = "sk-canary-1c0ffee5"


class Run:
    """One start.sh under way; `output` grows as it prints."""

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
