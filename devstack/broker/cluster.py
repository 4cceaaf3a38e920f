"""A small Pulsar cluster on this machine, for tests that kill its members: ZooKeeper, three bookies, two brokers."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import requests

from devstack.broker.configuration import PASSED_ON, QUICK_START, with_entries
from devstack.broker.distribution import missing_programs
from devstack.broker.process import Server
from devstack.ports import HOST, free_port
from devstack.terminal import StackError

BOOKIES, BROKERS = 3, 2
READY_TIMEOUT_S = 180.0  # 40 s on two free cores
# After so long without a sign of life the metadata store gives a broker's topics to another; Pulsar's own is 30000.
SESSION_MS = 10_000
MEMORY = {
    "zookeeper": "-Xms32m -Xmx96m",
    "bookie": "-Xms64m -Xmx160m -XX:MaxDirectMemorySize=128m",
    "broker": "-Xms96m -Xmx320m -XX:MaxDirectMemorySize=256m",
}
ZOOKEEPER_CONF = """\
tickTime=1000
dataDir={data}
clientPort={port}
clientPortAddress={host}
admin.enableServer=false
"""
BOOKIE_CONF = {
    "advertisedAddress": HOST,
    "listeningInterface": "lo",
    "allowLoopback": "true",
    "autoRecoveryDaemonEnabled": "false",
    "statsProviderClass": "org.apache.bookkeeper.stats.NullStatsProvider",
    "diskUsageThreshold": "0.99",
    "journalMaxSizeMB": "64",
    "minUsableSizeForIndexFileCreation": "1048576",
    "minUsableSizeForEntryLogCreation": "1048576",
    "entryLogFilePreallocationEnabled": "false",
    "dbStorage_writeCacheMaxSizeMb": "16",
    "dbStorage_readAheadCacheMaxSizeMb": "16",
    "dbStorage_rocksDB_blockCacheSize": "8388608",
}
BROKER_CONF = {
    "bindAddress": HOST,
    "advertisedAddress": HOST,
    "clusterName": "cluster",
    "metadataStoreSessionTimeoutMillis": str(SESSION_MS),
    "zooKeeperSessionTimeoutMillis": str(SESSION_MS),
    # Each message is at two of the three bookies, so that one may be killed.
    "managedLedgerDefaultEnsembleSize": "2",
    "managedLedgerDefaultWriteQuorum": "2",
    "managedLedgerDefaultAckQuorum": "2",
    "loadBalancerSheddingEnabled": "false",
    "functionsWorkerEnabled": "false",
    "webSocketServiceEnabled": "false",
    "systemTopicEnabled": "false",
    "topicLevelPoliciesEnabled": "false",
    "transactionCoordinatorEnabled": "false",
    "brokerShutdownTimeoutMs": "10000",
}


class Member(NamedTuple):
    """One process of the cluster."""

    name: str  # "zookeeper", "bookie-1", "broker-2"
    command: list[str]
    environment: dict[str, str]
    port: int


class Cluster:
    """The cluster, with data, confs and logs in `run_dir`. Owned by one thread: it ends with the thread that starts it.

    Args:
        home: a Pulsar distribution, from find_or_get().
        run_dir: a folder of its own.
    """

    def __init__(self, home: Path, run_dir: Path) -> None:
        self.home = home
        self.run_dir = run_dir.absolute()
        self._servers: dict[str, Server] = {}
        self._members: dict[str, Member] = {}
        self._admin_ports: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The service address: all brokers."""
        return "pulsar://" + ",".join(f"{HOST}:{self._members[name].port}" for name in self.brokers)

    @property
    def admin_url(self) -> str:
        """The admin address of a broker that runs."""
        name = next((name for name in self.brokers if self.is_alive(name)), self.brokers[0])
        return f"http://{HOST}:{self._admin_ports[name]}"

    @property
    def brokers(self) -> list[str]:
        """The names of the brokers."""
        return [f"broker-{number}" for number in range(1, BROKERS + 1)]

    @property
    def bookies(self) -> list[str]:
        """The names of the bookies."""
        return [f"bookie-{number}" for number in range(1, BOOKIES + 1)]

    def __enter__(self) -> Cluster:
        try:
            self.start_all()
        except BaseException:
            self.stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_all()

    def start_all(self) -> None:
        """Start all members, and return when messages can be published.

        Raises:
            StackError: Java is missing, or a member does not start; names its log.
        """
        if fault := missing_programs(os.environ, maven=False):
            raise StackError(fault)
        store = free_port()
        self._prepare(store)
        self.start("zookeeper")
        self._wait(lambda: _listens(store), "zookeeper")
        self._initialize(f"zk:{HOST}:{store}")
        for name in [*self.bookies, *self.brokers]:
            self.start(name)
        for name in self.brokers:
            self.wait_ready(name)

    def start(self, name: str) -> None:
        """Spawn a member, again if it ran before."""
        member = self._members[name]
        self._servers[name] = Server(member.command, member.environment, self._log(name))

    def wait_ready(self, name: str) -> None:
        """Return when a member answers.

        Raises:
            StackError: it does not start in time.
        """
        if name not in self.brokers:
            self._wait(lambda: _listens(self._members[name].port), name)
            return
        address = f"http://{HOST}:{self._admin_ports[name]}"
        self._wait(lambda: _answers(f"{address}/lookup/v2/topic/persistent/public/default/ready"), name)
        self._wait(lambda: _answers(f"{address}/admin/v2/brokers/health"), name)

    def is_alive(self, name: str) -> bool:
        """Whether a member runs."""
        return name in self._servers and self._servers[name].is_alive()

    def kill(self, name: str) -> None:
        """SIGKILL to a member, as in a crash."""
        self._servers[name].kill()

    def stop(self, name: str) -> None:
        """Stop a member in order."""
        self._servers[name].stop()

    def stop_all(self) -> None:
        """End all members. They are killed, because nothing of the data is used again."""
        for server in self._servers.values():
            server.kill()

    def owner_of(self, topic: str) -> str:
        """Return the name of the broker that serves a topic of `public/default`; assigns one if none does."""
        path = f"/lookup/v2/topic/persistent/public/default/{topic}"
        answer = _session().get(self.admin_url + path, timeout=30)
        answer.raise_for_status()
        port = int(answer.json()["brokerUrl"].rpartition(":")[2])
        return next(name for name in self.brokers if self._members[name].port == port)

    def _prepare(self, store: int) -> None:
        """Write the confs, and note how each member is started."""
        data = self.run_dir / "zookeeper"
        conf = self._conf("zookeeper", ZOOKEEPER_CONF.format(data=data, port=store, host=HOST))
        self._add("zookeeper", ["zookeeper"], {"PULSAR_ZK_CONF": str(conf)}, store)
        defaults = (self.home / "conf" / "bookkeeper.conf").read_text()
        for name in self.bookies:
            port = free_port()
            own = {
                "bookiePort": str(port),
                "metadataServiceUri": f"metadata-store:zk:{HOST}:{store}",
                "journalDirectory": str(self.run_dir / name / "journal"),
                "ledgerDirectories": str(self.run_dir / name / "ledgers"),
            }
            conf = self._conf(name, with_entries(defaults, {**BOOKIE_CONF, **own}))
            self._add(name, ["bookie"], {"PULSAR_BOOKKEEPER_CONF": str(conf)}, port)
        defaults = (self.home / "conf" / "broker.conf").read_text()
        for name in self.brokers:
            port, self._admin_ports[name] = free_port(), free_port()
            own = {
                "brokerServicePort": str(port),
                "webServicePort": str(self._admin_ports[name]),
                "metadataStoreUrl": f"zk:{HOST}:{store}",
                "configurationMetadataStoreUrl": f"zk:{HOST}:{store}",
            }
            conf = self._conf(name, with_entries(defaults, {**BROKER_CONF, **own}))
            self._add(name, ["broker"], {"PULSAR_BROKER_CONF": str(conf)}, port)

    def _conf(self, name: str, text: str) -> Path:
        folder = self.run_dir / name
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.conf"
        path.write_text(text)
        return path

    def _add(self, name: str, arguments: list[str], variables: Mapping[str, str], port: int) -> None:
        kind = name.partition("-")[0]
        self._members[name] = Member(
            name, [str(self.home / "bin" / "pulsar"), *arguments], {**self._environment(name, kind), **variables}, port
        )

    def _environment(self, name: str, kind: str) -> dict[str, str]:
        temporary = f"-Djava.io.tmpdir={self.run_dir / name / 'tmp'}"
        return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
            "PULSAR_LOG_DIR": str(self.run_dir / name / "logs"),
            "PULSAR_MEM": MEMORY[kind],
            "BOOKIE_MEM": MEMORY[kind],
            "PULSAR_GC": QUICK_START,
            "BOOKIE_GC": QUICK_START,
            "PULSAR_GC_LOG": "-Xlog:async",  # no log of the garbage collector
            "BOOKIE_GC_LOG": "-Xlog:async",
            "PULSAR_EXTRA_OPTS": temporary,
            "BOOKIE_EXTRA_OPTS": temporary,
        }

    def _initialize(self, store: str) -> None:
        """Write the cluster's metadata; once for the life of the data."""
        broker = self._members[self.brokers[0]]
        command = [
            str(self.home / "bin" / "pulsar"), "initialize-cluster-metadata", "--cluster", BROKER_CONF["clusterName"],
            "--metadata-store", store, "--configuration-metadata-store", store,
            "--web-service-url", f"http://{HOST}:{self._admin_ports[self.brokers[0]]}",
            "--broker-service-url", f"pulsar://{HOST}:{broker.port}",
        ]  # fmt: skip
        with self._log("initialize").open("ab") as log:
            done = subprocess.run(
                command, env=broker.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
                timeout=READY_TIMEOUT_S,
            )  # fmt: skip
        if done.returncode:
            raise StackError(f"The cluster's metadata were not written. The log is {self._log('initialize')}.")

    def _log(self, name: str) -> Path:
        return self.run_dir / f"{name}.log"

    def _wait(self, condition: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            if not self.is_alive(name):
                raise StackError(f"{name} did not start. Its log is {self._log(name)}.")
            if time.monotonic() > deadline:
                raise StackError(f"{name} is not ready after {READY_TIMEOUT_S:.0f} s. Its log is {self._log(name)}.")
            time.sleep(0.2)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy between here and 127.0.0.1
    return session


def _answers(url: str) -> bool:
    try:
        return _session().get(url, timeout=10).ok
    except requests.RequestException:
        return False
