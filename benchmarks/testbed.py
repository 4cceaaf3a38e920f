"""The testbed: broker, upstream and gateway, and a target between them that is measured."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pulsar

from benchmarks import baseline_node
from benchmarks.figures import Sample
from benchmarks.gateway import Gateway
from benchmarks.load import Clients, Direct, Tick
from benchmarks.upstream import MODEL, Upstream
from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.support.node import Node

NODE = "node"  # WorkerNode
BASELINE = "baseline node"  # baseline_node.py
DIRECT = "direct"  # the clients ask upstream themselves
GO = "minimal Go node"  # of the lab (lab.py)
LITELLM = "LiteLLM"  # LiteLLM's proxy (litellm.py)
ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    NODE: [sys.executable, str(ROOT / "WorkerNode.py")],
    BASELINE: [sys.executable, "-m", baseline_node.__name__],
}
RESULTS = ROOT / "benchmarks" / "results"
# A node logs a line a task. The lines go to a file, because the load generator has no time to read them.
TO_LOG = ["sh", "-c", 'exec "$@" 2>>"$0"', str(RESULTS / "nodes.log")]
IN_FLIGHT = (8, 64, 512)  # tasks, at which the CPU of one is measured
NODE_SLOTS = 16  # of each of several nodes
SAMPLE_S = 0.2  # between two readings of the memory
VARIABLES = {"NODE_TYPE": "remote", "API_KEY": "sk-benchmark", "UPSTREAM_MODEL": MODEL, "LOG_FORMAT": "json"}


@dataclass(frozen=True)
class Parties:
    """The parties that are not everywhere: None where one is to be left out."""

    lab: Path | None = None  # the folder of the lab's programs: upstream, labgw, refnode
    litellm: Path | None = None  # LiteLLM's command

    def has(self, target: str) -> bool:
        """Return whether the target can be measured."""
        return {GO: self.lab, LITELLM: self.litellm}.get(target, target) is not None


class Testbed:
    """Broker, upstream and gateway for all targets. One target at a time runs between them."""

    def __init__(self, tick: Tick, parties: Parties) -> None:
        self.tick = tick
        self.parties = parties
        self._parts = contextlib.ExitStack()
        self.folder = Path(self._parts.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        self._numbers = itertools.count()

    def __enter__(self) -> Testbed:
        RESULTS.mkdir(exist_ok=True)
        Path(TO_LOG[-1]).write_text("")
        with contextlib.ExitStack() as made:
            made.push(self._parts)
            broker = Broker(find_or_get(), self.folder / "broker", port=free_port(), admin_port=free_port())
            self.broker_url = self._parts.enter_context(broker).url
            self.upstream, self.gateway = Upstream(), Gateway()
            self._parts.callback(self.upstream.close)
            self._parts.callback(self.gateway.close)
            quiet = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
            self._client = pulsar.Client(self.broker_url, logger=quiet)
            self._parts.callback(self._client.close)
            made.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._parts.close()

    @contextlib.contextmanager
    def run(self, target: str, slots: int = 64, nodes: int = 1) -> Iterator[Run]:
        """Run a target that is ready, and stop it at the end. Each has its own model, and so its own topic."""
        with self.model() as (model, clients):
            run = Run(self, target, model, clients)
            try:
                for _ in range(nodes if target != DIRECT else 0):
                    run.start(slots)
                run.wait_ready()
                yield run
            finally:
                run.close()

    @contextlib.contextmanager
    def model(self) -> Iterator[tuple[str, Clients]]:
        """Give the name of a new model, and its clients."""
        model = f"bench-{next(self._numbers)}"
        clients = Clients(self._client, self.gateway, model)
        yield model, clients
        clients.close()

    def node(
        self, target: str, model: str, variables: Mapping[str, object], command: Sequence[str] | None = None
    ) -> Node:
        """Start one node of a target, with another command if one is given."""
        environment = {
            **VARIABLES,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # local.sh looks for python3
            "API_URL": self.upstream.api_url,
            "PULSAR_URL": self.broker_url,
            "MODEL_NAME": model,
            "RES_TOPIC_NAME": f"res-{model}",
            **variables,
        }
        return Node(environment, self.folder, command=[*TO_LOG, *(command or COMMANDS[target])])


class Nodes:
    """The running nodes of a target, and what they cost."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def cpu_s(self) -> float:
        """Return the CPU seconds that the processes have used so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self._processes())

    def pss_mb(self) -> float:
        """Return the memory of the processes (proportional set size) in MB."""
        return sum(one.memory_full_info().pss for one in self._processes()) / 1e6

    def close(self) -> None:
        """Stop the nodes."""
        for node in self.nodes:
            node.close()

    def _processes(self) -> list[psutil.Process]:
        return [one for node in self.nodes for one in [psutil.Process(node.pid), *node.tree()]]


class Run(Nodes):
    """A running target, and its load."""

    def __init__(self, testbed: Testbed, target: str, model: str, clients: Clients) -> None:
        super().__init__()
        self._testbed, self._target, self.model = testbed, target, model
        self.clients = clients
        self._load = Direct(testbed.upstream.port) if target == DIRECT else clients

    def start(self, slots: int) -> None:
        """Start another node of it."""
        self.nodes.append(self._testbed.node(self._target, self.model, {"MAX_PROCESS_NUM": slots}))

    def wait_ready(self) -> None:
        """Wait until all nodes take tasks."""
        for node in self.nodes:
            if self._target == BASELINE:
                node.wait_log(baseline_node.READY)
            else:
                node.wait_ready()

    def load(self, count: int, clients: int, stream: bool = False) -> list[Sample]:
        """Put it under load, and return the samples when all are answered."""
        return self._load.run(count, clients, stream, self._testbed.tick)


def cpu_a_task(run: Nodes, load: Callable[[int, int], object], size: int) -> tuple[float, ...]:
    """Return the milliseconds of CPU that a plain task costs at each of IN_FLIGHT, and the most by the least of them.

    Args:
        load: takes the number of tasks and of those in flight.
    """
    costs = []
    load(size, max(IN_FLIGHT))
    for clients in IN_FLIGHT:
        before = run.cpu_s()
        load(size, clients)
        costs.append(1000 * (run.cpu_s() - before) / size)
    return *costs, max(costs) / min(costs)


class Peak(threading.Thread):
    """Reads the memory of nodes until the end of its `with`, and keeps the highest value in `mb`."""

    def __init__(self, run: Nodes) -> None:
        super().__init__(daemon=True)
        self._run = run
        self._over = threading.Event()
        self.mb = 0.0

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.mb = max(self.mb, self._run.pss_mb())

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self.join()
