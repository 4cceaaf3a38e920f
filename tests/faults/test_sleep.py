"""A local model that is stopped while it is idle (LOCAL_IDLE_STOP), through a whole node."""

from __future__ import annotations

import json
import random
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.gateway import FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.wait import until

STANDIN = ROOT / "tests" / "support" / "llamafile_standin.py"
LONG = 60.0
SLEEPS = 20


@pytest.fixture
def local(node: Callable[..., Node], tmp_path: Path) -> Node:
    """A local node whose model sleeps after a moment without a task: for the first time before the node is ready."""
    started: Node = node(
        NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_COMMAND=shlex.join([sys.executable, str(STANDIN)]),
        LOCAL_IDLE_STOP="0.1s", LOCAL_PARALLEL=4, WORKER_PROCESSES=2, STANDIN_PIDFILE=tmp_path / "pids",
        STANDIN_BROKEN=tmp_path / "broken", STANDIN_SLOW=tmp_path / "slow", ready=False,
    )  # fmt: skip
    return started


def starts(tmp_path: Path) -> list[int]:
    """The process ids of the model server, one a start."""
    pids = tmp_path / "pids"
    return [int(pid) for pid in pids.read_text().split()] if pids.exists() else []


def wait_stopped(tmp_path: Path) -> None:
    """Wait until no model server runs."""
    until(lambda: not any(map(psutil.pid_exists, starts(tmp_path))), LONG, "model that is stopped")


def test_no_task_is_lost_and_no_process_left_while_the_model_sleeps_and_wakes(
    local: Node, platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    dice, ids = random.Random(20), []
    while len(starts(tmp_path)) <= SLEEPS:
        ids += [platform.ask(stream=dice.random() < 0.5) for _ in range(dice.choice([1, 1, 2, 7]))]
        gateway.wait_all(ids, LONG)
        if dice.random() < 0.7:  # else the next tasks come while it is awake, or falls asleep
            wait_stopped(tmp_path)
    wait_stopped(tmp_path)
    until(lambda: local.metrics()['workernode_intake_state{state="asleep"}'] == 1, LONG, "sleep in the metrics")
    status, body = local.status()
    assert (status, json.loads(body)["child"]) == (200, "asleep")
    assert gateway.faults(ids) == []
    platform.wait_balanced()
    assert [one["outcome"]["status"] for one in platform.records()] == ["answered"] * len(ids)
    local.sigterm()
    assert local.wait_exit() == 0
    local.wait_gone()


def test_a_task_that_waits_for_a_model_that_does_not_wake_goes_back_to_the_broker(
    local: Node, platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    local.wait_ready(LONG)
    wait_stopped(tmp_path)
    (tmp_path / "broken").touch()
    id = platform.ask()
    until(lambda: local.status()[0] == 503, LONG, "node that is not ready")
    platform.wait_unacked(0, LONG)
    assert platform.backlog() == 1
    (tmp_path / "broken").unlink()
    gateway.wait_all([id], LONG)
    assert gateway.faults([id]) == []
    [*naks, last] = platform.records_of(id, 2)
    assert {one["outcome"]["decision"] for one in naks} == {"nak"}
    assert last["outcome"]["status"] == "answered"


@pytest.mark.parametrize("is_waking", [False, True])
def test_a_node_whose_model_sleeps_or_wakes_stops_cleanly_and_keeps_no_task(
    is_waking: bool, local: Node, platform: Platform, tmp_path: Path
) -> None:
    local.wait_ready(LONG)
    wait_stopped(tmp_path)
    if is_waking:
        (tmp_path / "slow").touch()
        platform.ask()
        until(lambda: "waking up" in local.status()[1], LONG, "model that wakes up")
        platform.wait_unacked(1, LONG)
    local.sigterm()
    assert local.wait_exit() == 0
    local.wait_gone()
    platform.wait_unacked(0, LONG)
    assert platform.backlog() == int(is_waking)
    assert not any(map(psutil.pid_exists, starts(tmp_path)))
