"""One standalone Pulsar on this machine: start, wait until it is ready, stop, kill. For `start.sh` and the tests."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import requests

from devstack.broker.configuration import prepare
from devstack.broker.distribution import missing_programs
from devstack.broker.process import Server
from devstack.ports import HOST, free_port, require_free
from devstack.terminal import StackError

PORT = 6650
ADMIN_PORT = 8080
# This is in the log when the storage has registered itself. Its port is open before that.
REGISTERED = "BKCluster - New bookie"
READY_TIMEOUT_S = 120.0  # 8 to 12 s on two free cores


class Broker:
    """One standalone Pulsar with its data, conf and log in `run_dir`. Owned by one thread.

    It can be killed and started again on the same data. Published messages stay. Acknowledgements of the last
    minute may be lost (Pulsar stores its cursors that often), so that those messages are delivered again. On Linux the
    broker ends with the *thread* that started it: start it from a thread that stays.
    """

    def __init__(
        self,
        home: Path,
        run_dir: Path,
        *,
        port: int = PORT,
        admin_port: int = ADMIN_PORT,
        conf: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            home: a Pulsar distribution, from find_or_get().
            run_dir: data, conf and log; made if it is missing. If it was used before, its messages are there again.
            conf: entries of standalone.conf to add or change, e.g. for token authentication.
            token: for `wait_ready`, if the broker asks for authentication.
        """
        self.home = home
        self.run_dir = run_dir.absolute()
        self.port = port
        self.admin_port = admin_port
        self.url = f"pulsar://{HOST}:{port}"
        self.admin_url = f"http://{HOST}:{admin_port}"
        self.log_path = self.run_dir / "broker.log"
        self._bookie_dir = self.run_dir / "bookkeeper" / "current"
        self._conf = dict(conf or {})
        self._token = token
        self._server: Server | None = None

    def __enter__(self) -> Broker:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The pid of the JVM, which leads a process group of its own; None while it does not run."""
        return self._server.pid if self._server else None

    def start(self) -> None:
        """Spawn it. After a kill it first repairs the data. `wait_ready` returns when it can be used.

        Raises:
            StackError: Java is missing, a port is taken, or the broker runs already.
        """
        if self.is_alive():
            raise StackError(f"The broker of {self.run_dir} runs already (pid {self.pid}).")
        if fault := missing_programs(os.environ, maven=False):
            raise StackError(fault)
        bookie_port = self._bookie_port()
        require_free(self.port, "The broker's port", "Stop that program, or set PULSAR_PORT to another one.")
        require_free(self.admin_port, "Its admin port", "Stop that program, or set PULSAR_ADMIN_PORT to another one.")
        require_free(bookie_port, "Its storage port", f"Stop that program, or remove {self.run_dir} and its messages.")
        environment = self._prepare()
        if (self._bookie_dir / "DIRTY").exists():
            self._repair(environment, bookie_port)
        self._server = self._spawn(environment, bookie_port)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when a message can be published to `public/default` and read again.

        Raises:
            StackError: the broker ended, or is not ready in time. The text names its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if not self.is_alive():
                raise StackError(f"The broker did not start: {self._last_error()}\nIts log is {self.log_path}.")
            if time.monotonic() > deadline:
                raise StackError(f"The broker is not ready after {timeout_s:.0f} s. Its log is {self.log_path}.")
            time.sleep(0.1)

    def is_alive(self) -> bool:
        """Return whether its process runs."""
        return self._server is not None and self._server.is_alive()

    def is_ready(self) -> bool:
        """Return whether what listens at its ports delivers messages; another process may have started it."""
        # The look-up shows that public/default exists, the health check that messages are delivered.
        paths = ("/lookup/v2/topic/persistent/public/default/ready", "/admin/v2/brokers/health")
        return all(map(self._get_ok, paths))

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, at most this long. Return whether it has ended."""
        return self._server is None or self._server.wait(timeout_s)

    def stop(self) -> None:
        """Terminate it, and kill it after the grace period. Nothing happens if it does not run."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """Kill its whole process group, as a crash would. `start` starts it again on its data."""
        if self._server is not None:
            self._server.kill()

    def _spawn(self, environment: Mapping[str, str], bookie_port: int, *more: str) -> Server:
        advertised = [] if "advertisedListeners" in self._conf else ["--advertised-address", HOST]
        command = [
            str(self.home / "bin" / "pulsar"), "standalone", "--no-functions-worker", "--no-stream-storage",
            *advertised, "--metadata-dir", str(self.run_dir / "metadata"),
            "--bookkeeper-dir", str(self.run_dir / "bookkeeper"), "--bookkeeper-port", str(bookie_port),
            *more,
        ]  # fmt: skip
        return Server(command, environment, self.log_path)

    def _repair(self, environment: Mapping[str, str], bookie_port: int) -> None:
        """After a kill: start the storage alone and stop it in order, so that it removes its registration. Takes 4 s.

        A broker that starts over a killed one's registration may delete and renew it for ever, thousands of times a
        second, and serve nobody: seen on 4.0.8 in three restarts of ten, on a busy machine in most.
        """
        self._server = self._spawn(environment, bookie_port, "--no-broker")
        deadline = time.monotonic() + READY_TIMEOUT_S
        with self.log_path.open(errors="replace") as log:
            log.seek(0, os.SEEK_END)
            while self.is_alive() and time.monotonic() < deadline:
                if any(REGISTERED in line for line in log):
                    break
                time.sleep(0.1)
        self.stop()

    def _prepare(self) -> dict[str, str]:
        own = {"brokerServicePort": str(self.port), "webServicePort": str(self.admin_port)}
        return prepare(self.home, self.run_dir, own | self._conf)

    def _bookie_port(self) -> int:
        """Return the port of the storage. The data name it, and a broker on another port never gets ready."""
        try:
            cookie = (self._bookie_dir / "VERSION").read_text()
        except FileNotFoundError:
            return free_port()
        known = re.search(r'bookieHost: ".*:(\d+)"', cookie)
        return int(known[1]) if known else free_port()

    def _get_ok(self, path: str) -> bool:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        with requests.Session() as session:
            session.trust_env = False  # no proxy between here and 127.0.0.1
            try:
                return session.get(self.admin_url + path, headers=headers, timeout=10).ok
            except requests.RequestException:
                return False

    def _last_error(self) -> str:
        lines = [line for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if " ERROR " in line or line.startswith(("Error", "Caused by:"))]
        return (errors or lines or ["its log is empty"])[-1][:300]
