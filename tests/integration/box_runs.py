"""A box with models: the memory while a model sleeps, two models on one box, and two behind one server that swaps them.

Not a part of the suite: it takes minutes. By hand:

    python -m pytest -s tests/integration/box_runs.py       # SLEEPS=20 TASKS=12 unless they are set
    SWAPPER=/path/to/local-engine-router python -m pytest -s tests/integration/box_runs.py -k swaps

local-engine-router is a package of PyPI, to be installed in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests

from devstack.broker import Broker
from devstack.ports import free_port
from tests.faults.testbed import pss_bytes
from tests.support.gateway import FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.wait import until

SLEEPS = int(os.environ.get("SLEEPS", "20"))
TASKS = int(os.environ.get("TASKS", "12"))  # for each node
SWAPPER = os.environ.get("SWAPPER", "")
TIMEOUT = 900
QUESTION = "Say a short sentence about rivers."

pytestmark = pytest.mark.timeout(3 * TIMEOUT)


@pytest.fixture
def platforms(broker: Broker, gateway: FakeGateway) -> Iterator[list[Platform]]:
    """The topics of two models."""
    with ExitStack() as stack:
        both = []
        for _ in range(2):
            both.append(Platform(broker, gateway))
            stack.callback(both[-1].close)
        yield both


def megabytes(sizes: list[int]) -> str:
    """The figures of one state: median, least and most."""
    median, least, most = (round(size / 1e6) for size in (statistics.median(sizes), min(sizes), max(sizes)))
    return f"{median} MB ({least} to {most})"


def model_pids(node: Node) -> list[int]:
    """The processes of the node's model server."""
    return [one.pid for one in node.tree() if "devstack.embedded" in " ".join(cmdline(one))]


def cmdline(process: psutil.Process) -> list[str]:
    """Its arguments; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_asleep(node: Node) -> bool:
    """Whether the node says that its model sleeps."""
    status, body = node.status()
    return status == 200 and json.loads(body).get("child") == "asleep"


def ask_both(platforms: list[Platform], gateway: FakeGateway, count: int) -> tuple[list[str], float]:
    """Give each model so many tasks, by turns; half of them are streams. Returns their ids, and the seconds they took.

    Each has one whole answer, and its record names the node's model.
    """
    began = time.monotonic()
    ids = [one.ask(QUESTION, stream=number % 2 == 0, max_tokens=16) for number in range(count) for one in platforms]
    gateway.wait_all(ids, TIMEOUT)
    took = time.monotonic() - began
    assert gateway.faults(ids) == []
    assert [gateway.answer(id).error for id in ids] == [None] * len(ids)
    for one in platforms:
        one.wait_balanced(timeout=TIMEOUT)
        assert {record["outcome"]["status"] for record in one.records()} == {"answered"}
    return ids, took


def test_the_memory_is_free_while_the_model_sleeps(
    node: Callable[..., Node], platform: Platform, gateway: FakeGateway
) -> None:
    local = node(
        NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_COMMAND=str(ROOT / "local.sh"), LOCAL_PARALLEL=4,
        LOCAL_IDLE_STOP="2s", TASK_TIMEOUT=TIMEOUT, ready=False,
    )  # fmt: skip
    local.wait_ready(TIMEOUT)
    awake, asleep, waits = [], [], []
    for _ in range(SLEEPS):
        began = time.monotonic()
        id = platform.ask(QUESTION, max_tokens=16)
        gateway.wait_all([id], TIMEOUT)
        waits.append(time.monotonic() - began)
        models = model_pids(local)
        assert models
        awake.append(pss_bytes(local))
        until(lambda: is_asleep(local), TIMEOUT, "model that sleeps")
        assert not any(map(psutil.pid_exists, models))
        assert model_pids(local) == []
        asleep.append(pss_bytes(local))
    platform.wait_balanced()
    slept = waits[1:]
    print(f"\n{SLEEPS} times, PSS of all processes of the node: awake {megabytes(awake)}, asleep {megabytes(asleep)}; "
          f"first {awake[0] / 1e6:.0f} and {asleep[0] / 1e6:.0f} MB, last {awake[-1] / 1e6:.0f} and "
          f"{asleep[-1] / 1e6:.0f} MB; the task that wakes it: {statistics.median(slept):.1f} s "
          f"({min(slept):.1f} to {max(slept):.1f})")  # fmt: skip
    assert max(asleep) < min(awake) / 2


def test_two_nodes_with_a_model_each(
    node: Callable[..., Node], platforms: list[Platform], gateway: FakeGateway
) -> None:
    nodes = [
        node(
            NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_COMMAND=str(ROOT / "local.sh"), LOCAL_PARALLEL=2,
            LOCAL_CTX=4096, LOCAL_THREADS=1, MODEL_NAME=one.model, RES_TOPIC_NAME=one.res_topic,
            TASK_TIMEOUT=TIMEOUT, ready=False, **more,
        )
        for one, more in zip(platforms, ({}, {"LOCAL_IDLE_STOP": "2s"}), strict=True)
    ]  # fmt: skip
    for each in nodes:
        each.wait_ready(TIMEOUT)
    ids, took = ask_both(platforms, gateway, TASKS)
    awake, caps = [pss_bytes(each) for each in nodes], [each.metrics()["workernode_cap"] for each in nodes]
    until(lambda: is_asleep(nodes[1]), TIMEOUT, "model that sleeps")
    print(f"\n{len(ids)} tasks, {TASKS} a node: all answered in {took:.1f} s; PSS "
          f"{[round(size / 1e6) for size in awake]} MB, asleep {pss_bytes(nodes[1]) / 1e6:.0f} MB, the other "
          f"{pss_bytes(nodes[0]) / 1e6:.0f} MB; caps {caps}")  # fmt: skip


def test_a_shortage_of_memory_lowers_the_caps_of_both(
    node: Callable[..., Node], platforms: list[Platform], gateway: FakeGateway
) -> None:
    """MEMORY_HIGH stands below what the machine uses already: each works one task at a time, and answers all."""
    nodes = [
        node(
            NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_COMMAND=str(ROOT / "local.sh"), LOCAL_PARALLEL=4,
            LOCAL_CTX=4096, LOCAL_THREADS=1, MODEL_NAME=one.model, RES_TOPIC_NAME=one.res_topic,
            TASK_TIMEOUT=TIMEOUT, MEMORY_HIGH=int(psutil.virtual_memory().percent) // 2 or 1, ready=False,
        )
        for one in platforms
    ]  # fmt: skip
    for each in nodes:
        each.wait_ready(TIMEOUT)
    for each in nodes:
        until(lambda each=each: each.metrics()["workernode_cap"] == 1, TIMEOUT, "cap of 1")  # type: ignore[misc]
    ids, took = ask_both(platforms, gateway, TASKS)
    caps = [each.metrics()["workernode_cap"] for each in nodes]
    print(f"\nshort of memory: {len(ids)} tasks, all answered in {took:.1f} s, caps {caps}")
    assert caps == [1, 1]


@pytest.fixture
def swapper(platforms: list[Platform], tmp_path: Path) -> Iterator[str]:
    """The address of a server that has one of two models loaded at a time."""
    port, engines = free_port(), [free_port(), free_port()]
    names = [f"engine-{number}" for number in range(2)]
    config = {
        "host": "127.0.0.1", "port": port, "routing_mode": "manual",
        "engines": {
            name: {
                "type": "generic_process", "enabled": True, "base_url": f"http://127.0.0.1:{engine}", "cwd": str(ROOT),
                "start_cmd": shlex.split(f"{sys.executable} -m devstack.embedded --port {engine} -np 2 -c 4096 -t 1"),
                "ready_path": "/health", "log_file": str(tmp_path / f"{name}.log"),
            }
            for name, engine in zip(names, engines, strict=True)
        },
        "models": [
            {"id": one.model, "engine": name, "display_name": one.model}
            for one, name in zip(platforms, names, strict=True)
        ],
    }  # fmt: skip
    path = tmp_path / "swapper.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "swapper.log").open("wb") as log:
        server = subprocess.Popen([SWAPPER, "--config", str(path)], cwd=tmp_path, stdout=log, stderr=log)
    try:
        until(lambda: server.poll() is not None or answers(url), TIMEOUT, "server that swaps models")
        yield url
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        server.terminate()
        server.wait(60)
        for process in psutil.wait_procs(family, 10)[1]:
            process.kill()
        print((tmp_path / "swapper.log").read_text()[-3000:])


def answers(url: str) -> bool:
    """Whether it serves its list of models."""
    try:
        return requests.get(f"{url}/v1/models", timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.skipif(not SWAPPER, reason="SWAPPER names no program")
@pytest.mark.parametrize("at_once", [2, TASKS], ids=["as many tasks as slots", "all tasks"])
def test_two_nodes_on_one_server_that_swaps_its_models(
    at_once: int, node: Callable[..., Node], platforms: list[Platform], gateway: FakeGateway, swapper: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    nodes = [
        node(
            API_URL=swapper, API_KEY="none", MODEL_NAME=one.model, UPSTREAM_MODEL=one.model, MAX_PROCESS_NUM=at_once,
            RES_TOPIC_NAME=one.res_topic, TASK_TIMEOUT=TIMEOUT, WORKER_PROCESSES=1,
        )
        for one in platforms
    ]  # fmt: skip
    for one in platforms:  # one model after the other
        began = time.monotonic()
        id = one.ask(QUESTION, max_tokens=16)
        gateway.wait_all([id], TIMEOUT)
        print(f"\nfirst task of a model that is not loaded: {time.monotonic() - began:.1f} s")
    ids, took = ask_both(platforms, gateway, TASKS)
    again = sum(record["attempts"] - 1 for one in platforms for record in one.records())
    swaps = (tmp_path / "swapper.log").read_text().count("SWAP done")
    print(f"{len(ids)} tasks, both models by turns: all answered in {took:.1f} s, asked again {again} times; "
          f"{swaps} swaps with the first two; PSS "
          f"{[round(pss_bytes(each) / 1e6) for each in nodes]} MB a node")  # fmt: skip
