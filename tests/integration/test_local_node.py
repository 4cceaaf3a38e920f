"""A local node with the real embedded model: served, and served through the model's death."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from tests.support.gateway import FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.wait import until

TIMEOUT = 300
SLOTS = 4


@pytest.fixture
def local(node: Callable[..., Node]) -> Node:
    started: Node = node(
        NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_COMMAND=str(ROOT / "local.sh"), LOCAL_PARALLEL=SLOTS,
        MAX_PROCESS_NUM=16, WORKER_PROCESSES=2, ready=False,
    )  # fmt: skip
    return started.wait_ready(TIMEOUT)


def model_of(node: Node) -> psutil.Process:
    """The model server's process."""

    def found() -> list[psutil.Process]:
        family = psutil.Process(node.pid).children(recursive=True)
        try:
            return [process for process in family if "devstack.embedded" in " ".join(process.cmdline())]
        except psutil.NoSuchProcess:
            return []

    return until(found, TIMEOUT, "model server")[0]


def ask(platform: Platform, stream: bool) -> str:
    return platform.ask("Say a short sentence about rivers.", stream=stream, max_tokens=24)


def test_the_embedded_model_answers_plainly_and_chunk_by_chunk(
    local: Node, platform: Platform, gateway: FakeGateway
) -> None:
    plain, stream = ask(platform, False), ask(platform, True)
    gateway.wait_all([plain, stream], TIMEOUT)
    assert gateway.faults([plain, stream]) == []
    assert gateway.answer(plain).data["choices"][0]["message"]["content"]
    assert len(gateway.answer(stream).chunks) > 2
    for id in (plain, stream):
        record = platform.record_of(id)
        assert record["node"]["type"] == "local"
        assert record["usage"]["completion_tokens"] > 0
    # Its slots are the cap, and nobody else on the box knows its key.
    assert local.metrics()["workernode_cap"] <= SLOTS
    command = " ".join(model_of(local).cmdline())
    key = model_of(local).environ().get("LLAMA_API_KEY", "")
    assert key == "" or key not in command
    local.sigterm()
    assert local.wait_exit() == 0
    local.wait_gone(5)


# A real model on cores that other tests share: it may need minutes for these tasks.
@pytest.mark.timeout(420)
def test_tasks_outlive_a_model_that_is_killed_twice(local: Node, platform: Platform, gateway: FakeGateway) -> None:
    ids = [ask(platform, stream) for stream in (False, True) * 12]
    def answered() -> int:
        return sum(gateway.answer(id).done.is_set() for id in ids)

    def restarted(before: int) -> bool:
        return model_of(local).pid != before and local.status("/readyz")[0] == 200

    for _ in range(2):
        pid, had = model_of(local).pid, answered()
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: restarted(pid), TIMEOUT, "model server that serves again")  # type: ignore[misc]
        until(lambda had=had: answered() > min(had, len(ids) - 1), TIMEOUT, "answers again")  # type: ignore[misc]
    gateway.wait_all(ids, TIMEOUT)
    assert gateway.faults(ids) == []
    # A plain task is asked again, a stream that had begun goes on; none is lost and none comes twice.
    assert [id for id in ids if gateway.answer(id).error] == []
