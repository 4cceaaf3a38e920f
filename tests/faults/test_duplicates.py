"""Delivered twice: what this node answered is acked and not run, whoever handed it out again and why."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.faults.house import House

BOTH = pytest.mark.parametrize("way", [False, True], ids=["plain", "stream"])


@pytest.fixture(scope="module")
def house(build: Callable[..., House]) -> House:
    """One node for all of it."""
    one = build()
    one.start()
    return one


@BOTH
def test_published_again_after_it_was_answered_it_is_acked_and_not_run(way: bool, house: House) -> None:
    task = house.platform.task("hello", stream=way)
    id = house.platform.ask("hello", stream=way, request_id=task["request_id"])
    house.platform.wait_balanced([id])
    house.platform.publish(json.dumps(task).encode())
    house.node.wait_log(lambda line: '"duplicate"' in line and id in line)
    house.platform.wait_backlog(0)
    assert house.asked(id) == 1
    assert len(house.platform.records_of(id)) == 1
    assert not house.gateway.answer(id).faults


@BOTH
def test_published_twice_while_it_runs_it_is_run_once(way: bool, house: House) -> None:
    gate = f"twice-{way}"
    task = house.platform.task({"gate": gate}, stream=way)
    id = task["request_id"]
    for _ in range(3):
        house.platform.publish(json.dumps(task).encode())
    house.gateway.register(id)
    house.upstream.wait_for_waiting(gate)
    house.platform.wait_unacked(3)  # all are at the node, or on their way back to it
    house.upstream.open_gate(gate)
    house.answer(id)
    house.platform.wait_backlog(0)
    assert house.asked(id) == 1
    assert not house.gateway.answer(id).faults
    assert [one["outcome"]["status"] for one in house.platform.records_of(id)] == ["answered"]


def test_handed_out_again_by_the_broker_everything_is_acked_and_nothing_run(house: House) -> None:
    """As after a lost ack: the broker's cursor is put back to the beginning."""
    platform = house.platform
    ids = platform.ask_many(["hello"] * 20) + platform.ask_many(["hello"] * 20, stream=True)
    platform.wait_balanced(ids)
    records = len(platform.records())
    asked = len(house.upstream.requests)
    subscription = f"persistent/public/default/{platform.topic}/subscription/{platform.subscription}"
    platform.admin("POST", f"{subscription}/resetcursor/0")
    for id in ids:
        house.node.wait_log(lambda line, id=id: '"duplicate"' in line and id in line)  # type: ignore[misc]
    platform.wait_backlog(0)
    assert len(house.upstream.requests) == asked
    assert len(platform.records()) == records
    for id in ids:
        assert not house.gateway.answer(id).faults


def test_handed_out_again_while_it_runs_it_is_run_once(house: House) -> None:
    """As after a lost connection: the same messages come to the same node while the first copies are at work."""
    platform = house.platform
    ids = [platform.ask({"gate": "again"}, stream=way) for way in (False, True) * 5]
    house.upstream.wait_for_waiting("again", len(ids))
    platform.admin("PUT", f"persistent/public/default/{platform.topic}/unload")
    platform.wait_unacked(len(ids))
    house.upstream.open_gate("again")
    platform.wait_balanced(ids)
    for id in ids:
        assert house.asked(id) == 1
        assert not house.gateway.answer(id).faults
        assert len(platform.records_of(id)) == 1
