"""The gateway gone, slow, refusing or closing: the answer is kept, upstream is asked once, nothing waits for ever."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.faults.testbed import Testbed
from tests.support.gateway import FakeGateway
from tests.support.wait import until

OUTAGE = 2.0  # seconds
FEW_SLOTS = 8
BOTH = pytest.mark.parametrize("way", [False, True], ids=["plain", "stream"])


@pytest.fixture(scope="module")
def testbed(build: Callable[..., Testbed]) -> Testbed:
    """One node for all that does not end with the task's time."""
    one = build(CONNECT_TIMEOUT=1)
    one.start()
    return one


@pytest.fixture(scope="module")
def hasty(build: Callable[..., Testbed]) -> Testbed:
    """A node whose tasks have little time."""
    one = build(TASK_TIMEOUT=6)
    one.start()
    return one


@pytest.fixture(scope="module")
def few(build: Callable[..., Testbed]) -> Testbed:
    """A node with few slots, and tasks with little time."""
    one = build(MAX_PROCESS_NUM=FEW_SLOTS, TASK_TIMEOUT=20)
    one.start()
    return one


# What the gateway does to a POST for one id → (status of the record, the client has its answer).
POSTS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "500 three times": ({"status": 500, "times": 3}, "answered", True),
    "429 once": ({"status": 429, "times": 1}, "answered", True),
    "reset twice": ({"reset": True, "times": 2}, "answered", True),
    "redirect": ({"status": 307, "redirect_to": "http://127.0.0.1:9/res"}, "gateway_refused", False),
    "400": ({"status": 400}, "gateway_refused", False),
    "404 for good": ({"status": 404}, "client_gone", False),
    "taken, then hangs": ({"take_then_hang": True}, "unconfirmed", True),
    "hangs": ({"hang": True}, "unconfirmed", False),
    "slow": ({"delay_ms": 1500}, "answered", True),
    "taken, then reset": ({"take_then_reset": True}, "client_gone", True),
}


@pytest.fixture(scope="module")
def posted(testbed: Testbed) -> dict[str, str]:
    """Every row of the table, asked at once so that its waits overlap: the ids."""
    ids = {}
    for name, (behaviour, _, _) in POSTS.items():
        task = testbed.platform.task("hello")
        ids[name] = task["request_id"]
        testbed.gateway.behave(ids[name], **behaviour)
        testbed.platform.ask("hello", request_id=ids[name])
    return ids


@pytest.mark.parametrize("name", POSTS)
def test_a_fault_of_the_post(name: str, testbed: Testbed, posted: dict[str, str]) -> None:
    behaviour, status, answered = POSTS[name]
    id = posted[name]
    record = testbed.last_record(id)
    assert record["outcome"]["status"] == status, record["outcome"]
    assert record["outcome"]["decision"] == "ack"
    assert testbed.asked(id) == 1
    assert testbed.naks(id) == 0
    assert record["usage_source"] == "upstream"  # it was used, so it is billed
    assert (testbed.gateway.answer(id).finished_at is not None) == answered
    if behaviour.get("times"):
        assert len(testbed.gateway.answer(id).posts) == behaviour["times"] + 1


def test_404_at_first_is_a_gateway_that_registers_late(testbed: Testbed) -> None:
    testbed.platform.register_delay = 0.6
    try:
        id = testbed.platform.ask("hello")
    finally:
        testbed.platform.register_delay = 0
    answer = testbed.answer(id)
    assert answer.error is None
    assert len(answer.posts) > 1
    assert testbed.asked(id) == 1


@BOTH
def test_a_gateway_that_is_down_for_seconds_gets_the_answer_later(way: bool, testbed: Testbed) -> None:
    testbed.gateway.down()
    try:
        id = testbed.platform.ask("hello", stream=way)
        testbed.upstream.wait_until(lambda: testbed.asked(id), 20, "question")
        down_at = time.monotonic()
        until(lambda: time.monotonic() - down_at > OUTAGE, 20, "end of the outage")
    finally:
        testbed.gateway.up()
    answer = testbed.answer(id)
    assert answer.error is None
    assert answer.text
    assert testbed.asked(id) == 1
    assert testbed.last_record(id)["outcome"]["status"] == "answered"


def test_a_gateway_that_stays_down_costs_one_call_and_no_more_than_the_tasks_time(hasty: Testbed) -> None:
    start = time.monotonic()
    hasty.gateway.down()
    try:
        ids = [hasty.platform.ask("hello", stream=way) for way in (False, True)]
        records = [hasty.last_record(id) for id in ids]
    finally:
        hasty.gateway.up()
    assert time.monotonic() - start > hasty.task_timeout / 3  # it was kept, and offered again and again
    for id, record in zip(ids, records, strict=True):
        assert record["outcome"]["status"] == "gateway_unreachable"
        assert record["outcome"]["decision"] == "ack"
        assert record["usage_source"] == "upstream"
        assert hasty.asked(id) == 1
    hasty.platform.wait_backlog(0)


def test_tasks_of_a_gateway_that_is_away_keep_no_slot_from_others_and_are_answered_when_it_is_back(
    few: Testbed,
) -> None:
    """Three times as many tasks as the node has slots wait for one gateway. Upstream is paid for few of them."""
    with closing(FakeGateway()) as away:
        away.down()
        ids = []
        for number in range(3 * FEW_SLOTS):
            stream = number % 2 == 1
            task = few.platform.task("hello", stream, task={"endpoint": away.ws_url if stream else away.post_url})
            ids.append(task["request_id"])
            few.platform.publish(json.dumps(task).encode())
        others = [few.platform.ask("hello", stream=way) for way in (False, True) * FEW_SLOTS]
        few.gateway.wait_all(others)
        assert not [id for id in ids if few.gateway.answer(id).finished_at], "their gateway is another one"
        assert sum(few.asked(id) for id in ids) <= FEW_SLOTS
        few.node.wait_log("gateway_away")
        away.register(*ids)
        away.up()
        away.wait_all(ids)
        few.node.wait_log("gateway_back")
        assert not away.faults(ids)
    assert [few.asked(id) for id in ids] == [1] * len(ids)
    assert {few.last_record(id)["outcome"]["status"] for id in ids} == {"answered"}
    assert {few.last_record(id)["usage_source"] for id in ids} == {"upstream"}
    few.platform.wait_backlog(0)


def test_tasks_of_an_address_where_nothing_listens_end_with_their_time(few: Testbed) -> None:
    ids = []
    for number in range(2 * FEW_SLOTS):
        stream = number % 2 == 1
        task = few.platform.task("hello", stream, task={"endpoint": "http://127.0.0.1:1/res" + "/ws" * stream})
        ids.append(task["request_id"])
        few.platform.publish(json.dumps(task).encode())
    records = [few.last_record(id) for id in ids]
    assert {record["outcome"]["decision"] for record in records} == {"ack"}
    assert {record["outcome"]["status"] for record in records} <= {"gateway_unreachable", "expired"}
    assert sum(few.asked(id) for id in ids) <= FEW_SLOTS
    assert few.platform.ask_and_wait("hello").error is None
    few.platform.wait_backlog(0)


def test_a_node_that_stops_gives_back_the_tasks_of_a_gateway_that_is_away(build: Callable[..., Testbed]) -> None:
    one = build(MAX_PROCESS_NUM=4, DRAIN_TIMEOUT=2)
    one.start()
    one.gateway.down()
    ids = [one.platform.ask("hello") for _ in range(12)]
    one.node.wait_log("gateway_away")
    until(lambda: one.node.metrics()["workernode_tasks_in_flight"] == len(ids), 20, "all tasks at the node")
    one.node.sigterm()
    assert one.node.wait_exit() == 0
    one.gateway.up()
    one.start()
    one.gateway.wait_all(ids)
    assert not one.gateway.faults(ids)


@pytest.mark.parametrize("how", ["cut_after", "close_after"])
def test_a_broken_connection_stops_upstream_and_a_new_one_carries_the_end(how: str, testbed: Testbed) -> None:
    gate = f"gate-{how}"
    task = testbed.platform.task({"gate_chunks": gate, "chunks": 9}, stream=True)
    id = task["request_id"]
    testbed.gateway.behave(id, **{how: 3})
    testbed.platform.ask({"gate_chunks": gate, "chunks": 9}, stream=True, request_id=id)
    testbed.upstream.release(gate, 2)
    testbed.gateway.wait_for_frames(id, 3)
    cut_at = time.time()
    (asked,) = [one for one in testbed.upstream.requests if one.headers.get("x-client-request-id") == id]
    until(lambda: asked.left_at, 10, "end of upstream's work")
    assert asked.left_at is not None
    assert asked.left_at - cut_at < 1.0
    record = testbed.last_record(id)
    assert record["outcome"]["status"] == "connection_lost"
    assert record["outcome"]["decision"] == "ack"
    assert record["usage_source"] == "counted"
    assert record["usage"]["completion_tokens"] == 2
    answer = testbed.answer(id)
    assert [one.end for one in answer.frames] == [False, False, False, False, True]
    assert answer.error is not None
    testbed.upstream.open_gate(gate)


UPGRADES: dict[str, tuple[dict[str, Any], str]] = {
    "500 twice": ({"upgrade_status": 500, "times": 2}, "answered"),
    "404 once": ({"upgrade_status": 404, "times": 1}, "answered"),
    "404 for good": ({"upgrade_status": 404}, "client_gone"),
    "redirect": ({"upgrade_redirect_to": "ws://127.0.0.1:9/res/ws"}, "client_gone"),
    "hangs once": ({"upgrade_hang": True, "times": 1}, "answered"),
}


@pytest.mark.parametrize("name", UPGRADES)
def test_a_fault_of_the_upgrade(name: str, testbed: Testbed) -> None:
    behaviour, status = UPGRADES[name]
    testbed.gateway.cut_connections()  # those kept need no upgrade
    testbed.gateway.behave(**behaviour)
    try:
        id = testbed.platform.ask("hello", stream=True)
        record = testbed.last_record(id)
    finally:
        testbed.gateway.behave()
    assert record["outcome"]["status"] == status, record["outcome"]
    assert testbed.asked(id) == 1
    assert testbed.naks(id) == 0
    if status == "answered":
        assert testbed.answer(id).ends == 1


def test_a_gateway_restarted_in_the_middle_of_streams_ends_them_and_serves_those_after(testbed: Testbed) -> None:
    old = [testbed.platform.ask({"gate_chunks": "restart"}, stream=True) for _ in range(4)]
    testbed.upstream.wait_for_waiting("restart", len(old))
    testbed.upstream.release("restart", len(old))
    for id in old:
        testbed.gateway.wait_for_frames(id, 2)
    testbed.gateway.down()
    testbed.gateway.forget(*old)
    testbed.gateway.up()
    for id in old:
        assert testbed.last_record(id)["outcome"]["status"] == "connection_lost"
        assert testbed.asked(id) == 1
        # Nothing confirms the end on a new connection, so that the record may be there first.
        until(lambda id=id: testbed.gateway.answer(id).ends == 1, 10, "end of a stream")  # type: ignore[misc]
    assert testbed.platform.ask_and_wait("hello", stream=True).text


def test_nothing_of_it_is_left_in_the_broker(testbed: Testbed) -> None:
    testbed.platform.wait_backlog(0)
    assert not [one for answer in testbed.gateway.answers for one in answer.after_end]
