"""The lab: upstream, gateway and a minimal node in Go, which need little CPU. `--lab` names the folder of its programs.

A scenario of the lab measures the minimal Go node and ours in turn. The Go node takes one message ahead and stores a
record before each ack, as ours has to; it retries nothing and survives nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import BenchmarkError
from benchmarks.testbed import GO, IN_FLIGHT, NODE, NODE_SLOTS, Nodes, Testbed, cpu_a_task
from devstack.ports import HOST, free_port, is_taken
from tests.support.wait import until

PROGRAMS = ("upstream", "labgw", "refnode")
LOAD_LIMIT_S = 180.0
MOST_NODES = 4
Result = dict[str, float]  # labgw's figures

_numbers = itertools.count()


def missing(folder: Path) -> list[str]:
    """Return the lab's programs that are not in the folder."""
    return [name for name in PROGRAMS if not (folder / name).is_file()]


class LabRun(Nodes):
    """Nodes of one target beside the lab's upstream, and the lab's load."""

    def __init__(self, testbed: Testbed, target: str, upstream: str) -> None:
        super().__init__()
        assert testbed.parties.lab is not None
        self._testbed, self._target, self._upstream, self._lab = testbed, target, upstream, testbed.parties.lab
        self._model = f"lab-{next(_numbers)}"

    def start(self, slots: int) -> None:
        """Start another node."""
        if self._target == NODE:
            about = {"MAX_PROCESS_NUM": slots, "API_URL": self._upstream}
            self.nodes.append(self._testbed.node(NODE, self._model, about))
            return
        command = [
            self._lab / "refnode", "-model", self._model, "-api", f"{self._upstream}/v1/chat/completions",
            "-c", slots, "-queue", 1, "-record", f"res-{self._model}", "-pulsar", self._testbed.broker_url,
        ]  # fmt: skip
        self.nodes.append(self._testbed.node(GO, self._model, {}, [str(word) for word in command]))

    def wait_ready(self) -> None:
        """Wait until our nodes take tasks. The Go node shows no sign; the tasks that warm it up wait for it."""
        for node in self.nodes if self._target == NODE else ():
            node.wait_ready()

    def load(self, count: int, clients: int, warm: int = 0, more: Sequence[str] = (), **directive: object) -> Result:
        """Put them under load, and return labgw's figures.

        Args:
            count: tasks.
            clients: tasks in flight.
            warm: tasks before the clock starts.
            more: more arguments of labgw.
            directive: what upstream is to do with each request.

        Raises:
            BenchmarkError: an answer was an error, came twice or did not come.
        """
        words = [
            self._lab / "labgw", "-pulsar", self._testbed.broker_url, "-model", self._model, "-n", count, "-c", clients,
            "-warm", warm, *(["-directive", json.dumps(directive)] if directive else []), *more,
        ]  # fmt: skip
        done = subprocess.run(
            [str(word) for word in words], check=False, capture_output=True, text=True, timeout=LOAD_LIMIT_S
        )
        if done.returncode:
            raise BenchmarkError(f"labgw ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
        result: Result = json.loads(done.stdout.strip().splitlines()[-1])
        if result["ok"] != count or any(result[name] for name in ("err", "lost", "dup", "after_end", "unknown")):
            raise BenchmarkError(f"not every task was answered once and well: {result}")
        self._testbed.tick(count)
        return result


@contextlib.contextmanager
def lab_run(testbed: Testbed, target: str, slots: int = 64, nodes: int = 1) -> Iterator[LabRun]:
    """Run a target beside the lab's upstream, and stop both at the end."""
    assert testbed.parties.lab is not None
    port = free_port()
    command = [str(testbed.parties.lab / "upstream"), "-listen", f"{HOST}:{port}", "-log=false"]
    upstream = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = LabRun(testbed, target, f"http://{HOST}:{port}")
    try:
        until(lambda: is_taken(port) or None, 10, "the lab's upstream")
        for _ in range(nodes):
            run.start(slots)
        run.wait_ready()
        yield run
    finally:
        run.close()
        upstream.kill()
        upstream.wait()


def plain(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure plain answers a second."""
    with lab_run(testbed, target) as run:
        return (run.load(size, 64, warm=size // 8)["per_s"],)


def streams(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure chunks a second of streams."""
    with lab_run(testbed, target) as run:
        return (run.load(size, 64, 64, ["-stream"], chunks=200)["chunks_per_s"],)


def single(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the time of a single answer: a plain one, and the first chunk of a stream."""
    with lab_run(testbed, target) as run:
        answer = run.load(size, 1, 20, latency_ms=20)["lat_p50"]
        # No frame may leave within 100 ms of the task (FRAME_AFTER), so the first chunk comes later than that.
        return answer, run.load(size // 3, 1, 10, ["-stream"], latency_ms=150, chunks=10, chunk_ms=5)["ttft_p50"]


def memory(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the memory after a load with 128 tasks in flight, streams too."""
    with lab_run(testbed, target, slots=128) as run:
        run.load(size, 128)
        run.load(size // 30, 128, 0, ["-stream"], chunks=200)
        return (run.pss_mb(),)


def growth(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the CPU of a plain task with few and with many tasks in flight."""
    with lab_run(testbed, target, slots=max(IN_FLIGHT)) as run:
        return cpu_a_task(run, run.load, size)


def nodes(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure tasks a second with one node and with four. The size is the number of tasks for each node."""
    rates = []
    for count in (1, MOST_NODES):
        with lab_run(testbed, target, NODE_SLOTS, count) as run:
            warm = count * NODE_SLOTS
            rates.append(run.load(count * size, 2 * count * NODE_SLOTS, warm, latency_ms=200)["per_s"])
    return *rates, rates[1] / rates[0]
