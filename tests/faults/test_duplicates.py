"""Delivered twice: what this node answered is acked and not run, whoever handed it out again and why."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.faults.testbed import Testbed

BOTH = pytest.mark.parametrize("way", [False, True], ids=["plain", "stream"])


@pytest.fixture(scope="module")
def testbed(build: Callable[..., Testbed]) -> Testbed:
    """One node for all of it."""
    one = build()
    one.start()
    return one


@BOTH
def test_published_again_after_it_was_answered_it_is_acked_and_not_run(way: bool, testbed: Testbed) -> None:
    task = testbed.platform.task("hello", stream=way)
    id = testbed.platform.ask("hello", stream=way, request_id=task["request_id"])
    testbed.platform.wait_balanced([id])
    testbed.platform.publish(json.dumps(task).encode())
    testbed.node.wait_log(lambda line: '"duplicate"' in line and id in line)
    testbed.platform.wait_backlog(0)
    assert testbed.asked(id) == 1
    assert len(testbed.platform.records_of(id)) == 1
    assert not testbed.gateway.answer(id).faults


@BOTH
def test_published_twice_while_it_runs_it_is_run_once(way: bool, testbed: Testbed) -> None:
    gate = f"twice-{way}"
    task = testbed.platform.task({"gate": gate}, stream=way)
    id = task["request_id"]
    for _ in range(3):
        testbed.platform.publish(json.dumps(task).encode())
    testbed.gateway.register(id)
    testbed.upstream.wait_for_waiting(gate)
    testbed.platform.wait_unacked(3)  # all are at the node, or on their way back to it
    testbed.upstream.open_gate(gate)
    testbed.answer(id)
    testbed.platform.wait_backlog(0)
    assert testbed.asked(id) == 1
    assert not testbed.gateway.answer(id).faults
    assert [one["outcome"]["status"] for one in testbed.platform.records_of(id)] == ["answered"]


def test_handed_out_again_by_the_broker_everything_is_acked_and_nothing_run(testbed: Testbed) -> None:
    """As after a lost ack: the broker's cursor is put back to the beginning."""
    platform = testbed.platform
    ids = platform.ask_many(["hello"] * 20) + platform.ask_many(["hello"] * 20, stream=True)
    platform.wait_balanced(ids)
    records = len(platform.records())
    asked = len(testbed.upstream.requests)
    subscription = f"persistent/public/default/{platform.topic}/subscription/{platform.subscription}"
    platform.admin("POST", f"{subscription}/resetcursor/0")
    for id in ids:
        testbed.node.wait_log(lambda line, id=id: '"duplicate"' in line and id in line)  # type: ignore[misc]
    platform.wait_backlog(0)
    assert len(testbed.upstream.requests) == asked
    assert len(platform.records()) == records
    for id in ids:
        assert not testbed.gateway.answer(id).faults


def test_handed_out_again_while_it_runs_it_is_run_once(testbed: Testbed) -> None:
    """As after a lost connection: the same messages come to the same node while the first copies are at work."""
    platform = testbed.platform
    ids = [platform.ask({"gate": "again"}, stream=way) for way in (False, True) * 5]
    testbed.upstream.wait_for_waiting("again", len(ids))
    platform.admin("PUT", f"persistent/public/default/{platform.topic}/unload")
    platform.wait_unacked(len(ids))
    testbed.upstream.open_gate("again")
    platform.wait_balanced(ids)
    for id in ids:
        assert testbed.asked(id) == 1
        assert not testbed.gateway.answer(id).faults
        assert len(platform.records_of(id)) == 1
