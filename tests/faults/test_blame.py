"""Blame by evidence, from outside (spec 5): one task's own refusal harms nobody, and a sick node does not harm its
other tasks' clients.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from devstack.ports import free_port
from supervisor.fitness.blame import ENOUGH, MORE_IF_WELL
from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.upstream import Exchange, FakeUpstream
from tests.support.wait import until

TIMEOUT = 60
POISON = "poisoned prompt"
SICK_KEY = "sk-sick-0123456789"

# How upstreams refuse; the reason is that of the report if all tasks are refused so.
DIALECTS: dict[str, tuple[dict[str, Any], str]] = {
    "firewall": ({"status": 403, "html": True}, "AuthenticationError"),
    "moderation": (
        {"status": 403, "raw": json.dumps({"error": {"code": 403, "message": "Your input was flagged"}})},
        "AuthenticationError",
    ),
    "no credit": (
        {"status": 402, "raw": json.dumps({"error": {"code": 402, "message": "This request needs more credits"}})},
        "APIQuotaExceededError",
    ),
    "401": (
        {"status": 401, "err_type": "invalid_request_error", "err_code": "invalid_api_key", "err_msg": "no"},
        "AuthenticationError",
    ),
    "page": ({"status": 404, "html": True}, "ConfigurationError"),
}
dialects = pytest.mark.parametrize("name", DIALECTS)


def reports(node: Node) -> list[dict[str, Any]]:
    return [line for line in node.logs() if line.get("event") == "report"]


@contextmanager
def readiness(node: Node) -> Iterator[set[int]]:
    """Ask /readyz again and again meanwhile; gives the set of its statuses."""
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.add(node.status("/readyz")[0])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("place", [0, 10, 20], ids=["first", "between", "last"])
@dialects
def test_one_poisoned_task_among_twenty_good_ones_gets_its_error_and_nobody_else_does(
    name: str, place: int, node: Callable[..., Node], platform: Platform, gateway: FakeGateway, upstream: FakeUpstream
) -> None:
    refusal = DIALECTS[name][0]
    upstream.script(lambda exchange: refusal if POISON in exchange.body.decode() else {"latency_ms": 50})
    only = node(MAX_PROCESS_NUM=8)
    texts = ["good"] * 20
    texts.insert(place, POISON)
    with readiness(only) as seen:
        ids = platform.ask_many(texts)
        gateway.wait_all(ids, TIMEOUT)
    assert gateway.faults(ids) == []
    errors = [id for id in ids if gateway.answer(id).error]
    assert errors == [ids[place]]
    assert seen == {200}
    assert reports(only) == []
    poisoned = [each for each in upstream.requests if POISON in each.body.decode()]
    assert len(poisoned) <= 3


@dialects
def test_what_all_tasks_are_refused_with_is_reported_once_with_the_right_reason(
    name: str, node: Callable[..., Node], platform: Platform, gateway: FakeGateway, upstream: FakeUpstream
) -> None:
    refusal, reason = DIALECTS[name]
    only = node(MAX_PROCESS_NUM=8, MAX_REDELIVERIES=1)
    upstream.mode = refusal
    ids = platform.ask_many(["hi"] * 8)
    until(lambda: reports(only), 10, "a report")
    assert [line["reason"] for line in reports(only)] == [reason]
    gateway.wait_all(ids, TIMEOUT)
    assert "Incorrect API key" not in str([gateway.answer(id).error for id in ids])
    upstream.mode = None
    until(lambda: only.status("/readyz")[0] == 200 or platform.ask_and_wait("again", TIMEOUT), TIMEOUT, "a fit node")
    assert len(reports(only)) == 1


# One after the other: a fault that upstream names, and one that it does not. All kinds of them: unit/.../test_blame.py.
@pytest.mark.parametrize(
    ("name", "is_slow"),
    [*((name, False) for name in DIALECTS), ("401", True), ("firewall", True)],
    ids=[*(f"{name}-at once" for name in DIALECTS), "401-one after the other", "firewall-one after the other"],
)
def test_several_poisoned_tasks_without_an_answer_between_leave_the_node_fit(
    name: str, is_slow: bool,
    node: Callable[..., Node], platform: Platform, gateway: FakeGateway, upstream: FakeUpstream,
) -> None:  # fmt: skip
    refusal = DIALECTS[name][0]
    upstream.script(lambda exchange: refusal if POISON in exchange.body.decode() else None)
    only = node(MAX_PROCESS_NUM=8)
    with readiness(only) as seen:
        poisoned = []
        for _ in range(ENOUGH + MORE_IF_WELL + 1):
            poisoned += platform.ask_many([POISON])
            if is_slow:  # each has its error before the next one comes
                gateway.wait_all(poisoned, TIMEOUT)
        good = platform.ask_many(["good"] * 12)
        gateway.wait_all(poisoned + good, TIMEOUT)
    assert [id for id in good if gateway.answer(id).error] == []
    assert [id for id in poisoned if not gateway.answer(id).error] == []
    assert gateway.faults(poisoned + good) == []
    assert (seen, reports(only)) == ({200}, [])


def test_a_refusal_that_passes_is_not_reported(
    node: Callable[..., Node], platform: Platform, gateway: FakeGateway, upstream: FakeUpstream
) -> None:
    refused: list[str] = []

    def decide(exchange: Exchange) -> dict[str, Any] | None:
        if POISON in exchange.body.decode() and not refused:
            refused.append(POISON)
            return {"status": 401, "err_msg": "no"}
        return None

    upstream.script(decide)
    only = node(MAX_PROCESS_NUM=4)
    ids = platform.ask_many(["good", "good", POISON, "good", "good"])
    gateway.wait_all(ids, TIMEOUT)
    assert [id for id in ids if gateway.answer(id).error] == []
    assert refused
    assert reports(only) == []


SICK: dict[str, Callable[[], tuple[dict[str, Any] | None, dict[str, Any]]]] = {
    "wrong key": lambda: ({"status": 401, "err_code": "invalid_api_key"}, {}),
    "wrong address": lambda: ({"status": 404, "html": True}, {}),
    "empty account": lambda: ({"status": 402, "err_code": "insufficient_quota"}, {}),
    "unknown model": lambda: ({"status": 404, "err_code": "model_not_found"}, {}),
    "503 with a long wait": lambda: ({"status": 503, "headers": {"Retry-After": "600"}}, {}),
    "nothing listens": lambda: (None, {"API_URL": f"http://127.0.0.1:{free_port()}/v1"}),
}


@pytest.mark.parametrize(
    ("name", "tasks", "slots", "latency_ms"),
    [*((name, 300, 16, 20) for name in SICK), ("wrong key", 120, 4, 400)],
    ids=[*SICK, "the healthy one is busy"],
)
def test_a_healthy_node_serves_the_tasks_that_a_sick_one_beside_it_cannot(
    name: str, tasks: int, slots: int, latency_ms: int,
    node: Callable[..., Node], platform: Platform, gateway: FakeGateway, upstream: FakeUpstream,
) -> None:  # fmt: skip
    refusal, variables = SICK[name]()
    sick_calls: list[float] = []

    def decide(exchange: Exchange) -> dict[str, Any] | None:
        if SICK_KEY in exchange.headers.get("authorization", ""):
            sick_calls.append(time.monotonic())
            return refusal
        return {"latency_ms": latency_ms}

    upstream.script(decide)
    node(MAX_PROCESS_NUM=slots, API_KEY=SICK_KEY, **variables)
    node(MAX_PROCESS_NUM=slots)
    ids = platform.ask_many(["hi"] * tasks)
    gateway.wait_all(ids, TIMEOUT)
    assert [gateway.answer(id).error for id in ids if gateway.answer(id).error] == []
    assert gateway.faults(ids) == []
    times = sorted((one.finished_at or 0) - (one.registered_at or 0) for one in map(gateway.answer, ids))
    print(f"{name}: the slowest answer took {times[-1]:.1f} s; the sick node asked {len(sick_calls)} times")
    assert len(sick_calls) < 60
