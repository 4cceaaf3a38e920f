"""A node whose clock differs from the gateway's, or jumps: it serves, and the log reports the difference."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

# Starts a node whose clock is ahead by the seconds that a file holds.
AHEAD = """
import sys, time
from pathlib import Path
real, file = time.time, Path(sys.argv.pop(1))
time.time = lambda: real() + float(file.read_text())
sys.path.insert(0, sys.argv.pop(1))
import supervisor.main
sys.exit(supervisor.main.main())
"""


@pytest.fixture
def node(platform: Platform, upstream: FakeUpstream, tmp_path: Path) -> Iterator[Callable[[float], Node]]:
    """A factory: `node(seconds)` starts a node whose clock is so far ahead; the file `ahead` changes that."""
    upstream.models = [platform.model]
    with ExitStack() as nodes:

        def start(seconds: float) -> Node:
            (tmp_path / "ahead").write_text(str(seconds))
            variables = {
                "NODE_TYPE": "remote", "MODEL_NAME": platform.model, "API_URL": upstream.api_url, "API_KEY": API_KEY,
                "PULSAR_URL": platform.broker.url, "RES_TOPIC_NAME": platform.res_topic, "WORKER_PROCESSES": 2,
            }  # fmt: skip
            command = [sys.executable, "-c", AHEAD, str(tmp_path / "ahead"), str(ROOT)]
            return nodes.enter_context(Node(variables, tmp_path, command=command)).wait_ready()

        yield start


def wait_idle(one: Node) -> None:
    """Wait until the node has asked for a message in vain for a while."""
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > 2 and one.metrics()["workernode_tasks_in_flight"] == 0, 20, "idle node")


def test_a_gateway_whose_clock_is_six_minutes_behind_is_served(
    node: Callable[[float], Node], platform: Platform, gateway: FakeGateway
) -> None:
    one = node(360)
    wait_idle(one)
    ids = platform.ask_many(["hi"] * 20)
    assert [answer.error for answer in gateway.wait_all(ids)] == [None] * 20
    assert "360 s behind this machine's clock" in one.wait_log("clock_difference")
    until(lambda: abs(one.metrics()["workernode_clock_difference_seconds"] - 360) < 5, 20, "difference in the metrics")


def test_a_jump_of_the_nodes_clock_makes_no_task_too_old(
    node: Callable[[float], Node], platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    one = node(0)
    assert platform.ask_and_wait("hi").error is None
    (tmp_path / "ahead").write_text("600")
    ids = platform.ask_many(["hi"] * 20)
    assert [answer.error for answer in gateway.wait_all(ids)] == [None] * 20
    assert "clock has jumped by 600 s" in one.wait_log("clock_jumped")
