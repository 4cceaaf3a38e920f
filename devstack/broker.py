"""Runs a Pulsar of one's own on this machine, for `start.sh` and the tests. Where Pulsar comes from: distribution.py.

    python -m devstack.broker find              print the installed Pulsar's home; exit 1 without one
    python -m devstack.broker fetch             the same, fetched through Maven if need be
    python -m devstack.broker run --dir DIR     in the foreground, until a signal or its parent's end
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil
import requests

from devstack.distribution import find_or_get, installed, missing_programs
from devstack.terminal import StackError

HOST = "127.0.0.1"
PORT = 6650
ADMIN_PORT = 8080
# The heap is bounded (issue 3); direct memory holds the caches of broker and bookie.
MEMORY = "-Xms128m -Xmx512m -XX:MaxDirectMemorySize=384m"
# Up in two thirds of the time and half the CPU of the default, on a box that also runs the node and its tests.
QUICK_START = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# What differs from Pulsar's own conf/standalone.conf.
CONF = {
    "bindAddress": HOST,
    "advertisedAddress": HOST,
    "listeningInterface": "lo0" if sys.platform == "darwin" else "lo",  # the bookie's, which would listen on all
    "allowEphemeralPorts": "true",  # without it standalone ignores --bookkeeper-port
    "webSocketServiceEnabled": "false",
    "systemTopicEnabled": "false",
    "topicLevelPoliciesEnabled": "false",
    "acknowledgmentAtBatchIndexLevelEnabled": "true",  # what of a batch was acked does not come again with the rest
}
# Below the range from which systems take the ports of outgoing connections: nobody sits on it between kill and restart.
FREE_PORTS = range(15_000, 30_000)
# bin/pulsar and the JVM get these only: no key of the node's, no PULSAR_... of the user's that changes the broker.
PASSED_ON = ("PATH", "HOME", "JAVA_HOME", "LANG", "LC_ALL", "TMPDIR")
# Runs the command that follows the parent's pid, and lets the kernel kill it when that parent is gone.
TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
# What the log says when the storage has registered itself; its port is open before.
REGISTERED = "BKCluster - New bookie"
READY_TIMEOUT_S = 120.0  # 8 to 12 s on two free cores
STOP_GRACE_S = 10.0  # it takes half a second when nothing hangs


class Broker:
    """One standalone Pulsar with its data, conf and log in `run_dir`. Owned by one thread.

    It can be killed and started again on the same data: what was published stays, acknowledgements of the last ten
    seconds may be lost (Pulsar stores its cursors that often), so that those messages are delivered again.
    On Linux it dies with the *thread* that started it; start it from one that stays.
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
            run_dir: made if it is missing; reused, it brings back its messages.
            conf: entries of standalone.conf to add or change, e.g. for token authentication.
            token: what wait_ready() shows to a broker that asks for authentication.
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
        self._process: subprocess.Popen[bytes] | None = None

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
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Spawn it; wait_ready() tells when it can be used. After a kill it first mends the data.

        Raises:
            StackError: Java is missing, a port is taken, or it runs already.
        """
        if self.is_alive():
            raise StackError(f"The broker of {self.run_dir} runs already (pid {self.pid}).")
        if fault := missing_programs(os.environ, maven=False):
            raise StackError(fault)
        bookie_port = self._bookie_port()
        _require_free(self.port, "The broker's port", "Stop that program, or set PULSAR_PORT to another one.")
        _require_free(self.admin_port, "Its admin port", "Stop that program, or set PULSAR_ADMIN_PORT to another one.")
        _require_free(bookie_port, "Its storage port", f"Stop that program, or remove {self.run_dir} and its messages.")
        environment = self._prepare()
        if (self._bookie_dir / "DIRTY").exists():
            self._mend(environment, bookie_port)
        self._process = self._spawn(environment, bookie_port)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when a message can be published to `public/default` and read again.

        Raises:
            StackError: it ended, or it is not ready in time; names its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if not self.is_alive():
                raise StackError(f"The broker did not start: {self._last_error()}\nIts log is {self.log_path}.")
            if time.monotonic() > deadline:
                raise StackError(f"The broker is not ready after {timeout_s:.0f} s. Its log is {self.log_path}.")
            time.sleep(0.1)

    def is_alive(self) -> bool:
        """Does its process run?"""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, but not longer. Returns: has it ended?"""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Ask it to end and kill it after the grace period. Without a start, or twice, it does nothing."""
        self._signal(signal.SIGTERM)
        if not self.wait(STOP_GRACE_S):
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group, as a crash would; start() brings it back on its data."""
        self._signal(signal.SIGKILL)
        self.wait(STOP_GRACE_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_alive():
            os.killpg(self._process.pid, number)

    def _spawn(self, environment: Mapping[str, str], bookie_port: int, *more: str) -> subprocess.Popen[bytes]:
        command = [
            str(self.home / "bin" / "pulsar"), "standalone", "--no-functions-worker", "--no-stream-storage",
            "--advertised-address", HOST,
            "--metadata-dir", str(self.run_dir / "metadata"),
            "--bookkeeper-dir", str(self.run_dir / "bookkeeper"), "--bookkeeper-port", str(bookie_port),
            *more,
        ]  # fmt: skip
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid()), *command]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop it in order
            )

    def _mend(self, environment: Mapping[str, str], bookie_port: int) -> None:
        """After a kill: start the storage alone and stop it in order, so that it takes its registration away; 4 s.

        A broker that starts over a killed one's registration may delete and renew it for ever, thousands of times a
        second, and serve nobody: seen on 4.0.8 in three restarts of ten, on a busy machine in most.
        """
        self._process = self._spawn(environment, bookie_port, "--no-broker")
        deadline = time.monotonic() + READY_TIMEOUT_S
        with self.log_path.open(errors="replace") as log:
            log.seek(0, os.SEEK_END)
            while self.is_alive() and time.monotonic() < deadline:
                if any(REGISTERED in line for line in log):
                    break
                time.sleep(0.1)
        self.stop()

    def _prepare(self) -> dict[str, str]:
        """Write the run's conf; return the environment for bin/pulsar."""
        temporary = self.run_dir / "tmp"  # native libraries are unpacked there, and stay when it is killed
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        conf = self.run_dir / "standalone.conf"
        conf.touch(mode=0o600)  # may hold a token
        own = {"brokerServicePort": str(self.port), "webServicePort": str(self.admin_port)}
        conf.write_text(_with_entries((self.home / "conf" / "standalone.conf").read_text(), CONF | own | self._conf))
        return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
            "PULSAR_STANDALONE_CONF": str(conf),
            "PULSAR_LOG_DIR": str(self.run_dir / "logs"),
            "PULSAR_MEM": MEMORY,
            "PULSAR_GC": QUICK_START,
            "PULSAR_GC_LOG": "-Xlog:async",  # no log of the garbage collector
            "PULSAR_EXTRA_OPTS": f"-Djava.io.tmpdir={temporary} -Dpulsar.allocator.exit_on_oom=true",
        }

    def _bookie_port(self) -> int:
        """The port of the storage inside: the data know it, and a restart on another one never gets ready."""
        try:
            cookie = (self._bookie_dir / "VERSION").read_text()
        except FileNotFoundError:
            return free_port()
        known = re.search(r'bookieHost: ".*:(\d+)"', cookie)
        return int(known[1]) if known else free_port()

    def _answers(self) -> bool:
        # The look-up proves that public/default is there, the health check that messages come back.
        return self._asks("/lookup/v2/topic/persistent/public/default/ready") and self._asks("/admin/v2/brokers/health")

    def _asks(self, path: str) -> bool:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no business between us and 127.0.0.1
            try:
                return session.get(self.admin_url + path, headers=headers, timeout=10).ok
            except requests.RequestException:
                return False

    def _last_error(self) -> str:
        lines = [line for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if " ERROR " in line or line.startswith(("Error", "Caused by:"))]
        return (errors or lines or ["it said nothing"])[-1][:300]


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection takes later."""
    for port in random.sample(FREE_PORTS, 200):
        if _is_free(port):
            return port
    raise StackError(f"No free port was found between {FREE_PORTS.start} and {FREE_PORTS.stop}.")


def holder_of(port: int) -> str:
    """Who listens on a port, as words: the pid and the program, where the system tells."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[-1:] == (port,)
            if listens and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "another program"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # What a killed broker left in TIME_WAIT is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def _require_free(port: int, what: str, remedy: str) -> None:
    if not _is_free(port):
        raise StackError(f"{what} {port} is taken by {holder_of(port)}. {remedy}")


def _with_entries(conf: str, entries: Mapping[str, str]) -> str:
    """A .conf with these entries instead of its own."""
    kept = [line for line in conf.splitlines() if line.partition("=")[0].strip() not in entries]
    return "\n".join([*kept, "", *(f"{name}={value}" for name, value in entries.items()), ""])


def _run(broker: Broker) -> None:
    """Run it in the foreground: until SIGTERM or SIGINT, the end of our parent, or its own end, which is a fault."""
    parent = os.getppid()

    def leave(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):  # a second one would cut the stop short
            signal.signal(number, signal.SIG_IGN)
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    with broker:
        print(f"ready {broker.url}", flush=True)
        while not broker.wait(0.5):
            if os.getppid() != parent:
                return
    raise StackError(f"The broker ended by itself. Its log is {broker.log_path}.")


def main(argv: list[str] | None = None) -> int:
    """The command line; see the top of this file. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devstack.broker", description="Finds, fetches, runs Pulsar.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("find", help="print the home of the installed Pulsar; exit 1 if there is none")
    commands.add_parser("fetch", help="print the home of a Pulsar, fetched through Maven if there is none")
    run = commands.add_parser("run", help="run it in the foreground; prints 'ready URL' when it can be used")
    run.add_argument("--dir", type=Path, required=True, help="data, conf and log")
    run.add_argument("--port", type=int, default=int(os.environ.get("PULSAR_PORT") or PORT))
    run.add_argument("--admin-port", type=int, default=int(os.environ.get("PULSAR_ADMIN_PORT") or ADMIN_PORT))
    options = parser.parse_args(argv)
    try:
        if options.command == "run":
            _run(Broker(find_or_get(), options.dir, port=options.port, admin_port=options.admin_port))
            return 0
        home = installed(os.environ) if options.command == "find" else find_or_get()
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if home is None:
        return 1
    print(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
