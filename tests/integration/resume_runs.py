"""200 tasks through a node with the real model, which is killed and stopped; and through workers that are killed.

Not a part of the suite: each takes minutes. By hand:

    python -m pytest -s tests/integration/resume_runs.py   # RESUME_TASKS=60: fewer; RESUME_TIMEOUT=3000: a busy box
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.integration.test_local_node import SLOTS, model_of
from tests.support.gateway import FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.wait import until

TASKS = int(os.environ.get("RESUME_TASKS", "200"))
TIMEOUT = int(os.environ.get("RESUME_TIMEOUT", "900"))  # seconds
BETWEEN_KILLS = 5.0  # seconds
QUESTIONS = ("Say a short sentence about rivers.", "Name four animals.", "Write a haiku about snow.", "Zähle bis zehn.")


@pytest.fixture
def local(node: Callable[..., Node]) -> Node:
    started: Node = node(
        NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_COMMAND=str(ROOT / "local.sh"), LOCAL_PARALLEL=SLOTS,
        MAX_PROCESS_NUM=16, WORKER_PROCESSES=2, TASK_TIMEOUT=TIMEOUT, ready=False,
    )  # fmt: skip
    return started.wait_ready(TIMEOUT)


def ask_all(platform: Platform) -> list[str]:
    """Mixed tasks: two of three are streams."""
    return [
        platform.ask(QUESTIONS[number % len(QUESTIONS)], stream=number % 3 > 0, max_tokens=24)
        for number in range(TASKS)
    ]


def assert_whole(gateway: FakeGateway, platform: Platform, ids: list[str], what: str) -> None:
    """Each task has one whole answer."""
    gateway.wait_all(ids, TIMEOUT)
    assert gateway.faults(ids) == []
    errors = {id: gateway.answer(id).error for id in ids if gateway.answer(id).error}
    finished = 0
    for id in ids:
        choices = [choice for chunk in gateway.answer(id).chunks for choice in chunk.get("choices", [])]
        finished += len([choice for choice in choices if choice["finish_reason"]]) == 1
    records = [platform.records_of(id, 1, 20)[-1] for id in ids]  # a task that went back to the broker has several
    resumed = [record for record in records if record["resumes"]]
    reasons = sorted({each["reason"] for record in resumed for each in record["resumes"]})
    print(f"{what}: {len(ids)} tasks, {finished} finished once, {len(errors)} errors, "
          f"{len(resumed)} streams went on: {reasons}")  # fmt: skip
    assert errors == {}
    assert finished == len(ids)


@pytest.mark.timeout(TIMEOUT)
def test_a_model_that_is_killed_twice_and_stopped_once(local: Node, platform: Platform, gateway: FakeGateway) -> None:
    ids = ask_all(platform)

    def answered() -> int:
        return sum(gateway.answer(id).done.is_set() for id in ids)

    for share, number in ((0.2, signal.SIGKILL), (0.4, signal.SIGSTOP), (0.6, signal.SIGKILL)):
        until(lambda share=share: answered() >= TASKS * share, TIMEOUT, "answers")  # type: ignore[misc]
        pid = model_of(local).pid
        os.kill(pid, number)
        until(lambda pid=pid: model_of(local).pid != pid, TIMEOUT, "another model server")  # type: ignore[misc]
    assert_whole(gateway, platform, ids, "model killed twice and stopped once")


@pytest.mark.timeout(TIMEOUT)
def test_a_worker_killed_every_five_seconds(local: Node, platform: Platform, gateway: FakeGateway) -> None:
    ids = ask_all(platform)
    kills = 0
    while not all(gateway.answer(id).done.is_set() for id in ids):
        time.sleep(BETWEEN_KILLS)
        workers = local.workers()
        if workers:
            os.kill(random.choice(workers), signal.SIGKILL)
            kills += 1
    assert_whole(gateway, platform, ids, f"{kills} workers killed")
