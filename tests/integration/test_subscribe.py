"""`workernode --subscribe` makes the subscription before the first node, for an autoscaler that starts from no pod."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.platform import Platform

REMOTE = {"NODE_TYPE": "remote", "API_URL": "http://127.0.0.1:9", "API_KEY": "sk-1", "STATUS_ADDR": "off"}


def test_a_task_that_is_published_before_any_node_is_counted_and_answered_when_one_comes(
    platform: Platform, gateway: FakeGateway, node: Callable[..., Node], tmp_path: Path
) -> None:
    first = node(ready=False, args=("--subscribe",))
    assert first.wait_exit(30) == 0
    id = platform.ask("hello")
    platform.wait_backlog(1)
    assert platform.unacked() == 0, "the subscription was made, and nobody holds the task"
    node()
    (answer,) = gateway.wait_all([id])
    assert answer.text
    platform.wait_backlog(0)


def test_it_says_why_there_is_no_subscription(platform: Platform, tmp_path: Path) -> None:
    environ = {**REMOTE, "MODEL_NAME": platform.model, "PULSAR_URL": "pulsar://127.0.0.1:9"}
    with Node(dict(environ), tmp_path, ("--subscribe",)) as run:
        assert run.wait_exit(60) == 1
        assert f"cannot make the subscription model-{platform.model}-subscription" in run.output
        assert "workernode --check says what to do" in run.output
        assert "Traceback" not in run.output
