"""The testbed of the fault tests: fake upstream, fake gateway, platform, and as many nodes as a test starts.

Several tests share one, because a broker and a node cost seconds; so a test counts only what belongs to its own ids.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.fixtures import API_KEY
from tests.support.gateway import Answer, FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Broker, Platform
from tests.support.upstream import FakeUpstream
from tests.support.wait import until


class Testbed:
    """Everything around the nodes, and the nodes. Each node has the testbed's variables unless it is given others."""

    __test__ = False  # pytest takes classes whose name begins with Test for tests

    def __init__(self, broker: Broker, folder: Path, variables: dict[str, object]) -> None:
        self.upstream = FakeUpstream()
        self.gateway = FakeGateway()
        self.platform = self._platform(broker)
        self.upstream.models = [self.platform.model]
        self.folder = folder
        self.nodes: list[Node] = []
        self.variables: dict[str, object] = {
            "NODE_TYPE": "remote",
            "MODEL_NAME": self.platform.model,
            "API_URL": self.upstream.api_url,
            "API_KEY": API_KEY,
            "PULSAR_URL": broker.url,
            "RES_TOPIC_NAME": self.platform.res_topic,
            "WORKER_PROCESSES": 2,
            "MAX_PROCESS_NUM": 32,
            "NAK_DELAY": 0.2,
            **variables,
        }

    def _platform(self, broker: Broker) -> Platform:
        return Platform(broker, self.gateway)

    def start(self, ready: bool = True, command: list[str] | None = None, **variables: object) -> Node:
        """Start a node; and wait until it is ready, unless `ready` is False."""
        node = Node({**self.variables, **variables}, self.folder, command=command)
        self.nodes.append(node)
        return node.wait_ready() if ready else node

    @property
    def node(self) -> Node:
        """The node started last."""
        return self.nodes[-1]

    def asked(self, id: str) -> int:
        """How often upstream was asked for this task."""
        return sum(one.headers.get("x-client-request-id") == id for one in list(self.upstream.requests))

    def asked_twice(self, ids: Iterable[str]) -> int:
        """How many calls upstream got beyond one for each id."""
        counts = Counter(one.headers.get("x-client-request-id", "") for one in list(self.upstream.requests))
        return sum(max(0, counts[id] - 1) for id in ids)

    def answer(self, id: str, timeout: float = 40) -> Answer:
        """The answer to a task, once it is there."""
        return self.gateway.answer(id).wait(timeout)

    def last_record(self, id: str, timeout: float = 40) -> dict[str, Any]:
        """The record with which the message left: acked or dead-lettered."""
        (record,) = self.platform.wait_records(
            lambda one: one["request_id"] == id and one["outcome"]["decision"] != "nak", 1, timeout, f"record of {id}"
        )
        return record

    def naks(self, id: str) -> int:
        """How often the task was handed back, by its records."""
        return sum(
            one["request_id"] == id and one["outcome"]["decision"] == "nak" for one in self.platform.records()
        )

    def log_of(self, id: str) -> list[dict[str, Any]]:
        """The lines about a task in the logs of all nodes."""
        return [line for node in self.nodes for line in node.logs() if line.get("request_id") == id]

    @property
    def task_timeout(self) -> float:
        """TASK_TIMEOUT, in seconds."""
        return float(str(self.variables["TASK_TIMEOUT"]))

    def close_nodes(self) -> None:
        """Kill the nodes: what is tested next on this machine should not share it with them."""
        for node in self.nodes:
            node.close()

    def close(self) -> None:
        """End all of it."""
        for node in self.nodes:
            print(node.tail())
        self.close_nodes()
        print(self.upstream.summary())
        print(self.gateway.summary())
        self.platform.close()
        for server in (self.upstream, self.gateway):
            server.close()
        assert not self.upstream.mistakes, self.upstream.mistakes
        assert not self.gateway.mistakes, self.gateway.mistakes


@contextmanager
def open_testbed(broker: Broker, folder: Path, **variables: object) -> Iterator[Testbed]:
    """Give a testbed; close it at the end."""
    one = Testbed(broker, folder, variables)
    try:
        yield one
    finally:
        one.close()


def plug(folder: Path, text: str) -> str:
    """Have a few lines of Python run in every worker process as it is born; return the node's PYTHONPATH.

    Workers are forks of a forkserver that has imported workernode already, so the lines run after that fork and find
    its modules in `sys.modules`. Nothing of this is in the product: it is Python's own sitecustomize.
    """
    plugs = folder / "plugs"
    plugs.mkdir(exist_ok=True)
    body = textwrap.indent(text.strip(), "    ")
    (plugs / "sitecustomize.py").write_text(
        "import os, sys\n\n\ndef in_worker():\n"
        "    if 'workernode.worker' not in sys.modules or 'supervisor.node' in sys.modules:\n        return\n"
        f"{body}\n\n\nos.register_at_fork(after_in_child=in_worker)\n"
    )
    return str(plugs)


def patched(folder: Path, text: str) -> list[str]:
    """The command of a node in whose supervisor these lines run first: for what would take a test minutes."""
    script = folder / "patched_node.py"
    body = textwrap.indent(text.strip(), "    ")
    script.write_text(
        f"import sys\n\nsys.path.insert(0, {str(ROOT)!r})\nimport supervisor.broker\nimport supervisor.main\n"
        f"import supervisor.assembly\n\nif __name__ == '__main__':\n{body}\n    sys.exit(supervisor.main.main())\n"
    )
    return [sys.executable, str(script)]


# Lines for `patched`: an outage of the broker is reported after 4 s, because a minute is long for a test.
REPORTS_SOON = "supervisor.health.broker_state.REPORT_AFTER = 4.0\nsupervisor.broker.connection.OPERATION_TIMEOUT = 1"


def pss_bytes(node: Node) -> int:
    """Memory of a node's processes; what they share is counted once."""
    total = 0
    for pid in [node.pid, *(one.pid for one in node.tree())]:
        try:
            total += psutil.Process(pid).memory_full_info().pss
        except (psutil.Error, OSError):
            continue
    return total


def kill(pid: int, number: int) -> bool:
    """Send a signal; False if the process is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_workers(node: Node, count: int, without: Iterable[int] = (), timeout: float = 30) -> list[int]:
    """Wait until the node has so many workers, none of them among those that were killed; gives their pids."""
    gone = set(without)

    def there() -> list[int]:
        workers = node.workers()
        assert len(workers) == count, workers
        assert not gone & set(workers), workers
        return workers

    return until(there, timeout, f"{count} new workers")


def one_end_each(testbed: Testbed, ids: Iterable[str]) -> None:
    """Assert that no client saw more than one answer, and none a frame after the end or before it could be taken."""
    for id in ids:
        answer = testbed.gateway.answer(id)
        assert answer.finished_at is not None, answer
        assert not answer.after_end, answer
        assert not answer.dropped, answer
        assert sum(post.taken for post in answer.posts) + sum(f.end and f.taken for f in answer.frames) == 1, answer
