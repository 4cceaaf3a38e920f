"""What a running node shows: totals that agree in every scrape; equal reasons on the page, in /readyz and the log."""

from __future__ import annotations

import html
import json
import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from supervisor.observability.metric_table import SERIES
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

TIMEOUT = 60


def scrape(node: Node) -> dict[str, float]:
    """The samples by name without its prefix: those of all values of a label added up, and each by `name value`."""
    status, text = node.status("/metrics")
    assert status == 200
    found: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if "le" not in one.labels:
                name = one.name.removeprefix("workernode_")
                found[name] += one.value
                for value in one.labels.values():
                    found[f"{name} {value}"] += one.value
    return found


def test_the_figures_add_up_in_every_scrape_under_load(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream
) -> None:
    one = node(MAX_PROCESS_NUM=16, NAK_DELAY=0.2)
    wrong: list[dict[str, float]] = []
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            now = scrape(one)
            most = max(most, int(now["tasks_in_flight"]))
            if now["tasks_taken_total"] != now["task_decisions_total"] + now["tasks_in_flight"]:
                wrong.append(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        good = [{"latency_ms": 30, "key": f"good {number}"} for number in range(150)]
        refused = [{"status": 400, "err_type": "invalid_request_error"}] * 30
        failing = [{"status": 500, "fail_times": 1, "key": f"fails once {number}"} for number in range(20)]
        platform.ask_many(good + refused + failing)
        platform.ask_many([{"chunks": 20, "chunk_ms": 5}] * 20, stream=True)
        for _ in range(5):
            platform.publish(b"not a task")
        upstream.wait_for_requests(40)
        os.kill(one.workers()[0], signal.SIGKILL)
        platform.wait_balanced(timeout=TIMEOUT)
        platform.wait_dead_letters(5)
        until(lambda: scrape(one)["tasks_in_flight"] == 0, TIMEOUT, "nothing in flight")
    finally:
        done.set()
        watcher.join()
    assert wrong == []
    assert 0 < most <= 18  # the cap, and at most two more (spec 3)
    last = scrape(one)
    assert last["task_decisions_total ack"] == 220
    assert last["task_decisions_total dead_letter"] == last["task_outcomes_total malformed"] == 5
    assert last["task_decisions_total nak"] == last["task_outcomes_total worker_died"]
    assert last["task_outcomes_total"] == last["task_decisions_total"]
    assert last["task_outcomes_total refused"] == 30
    assert last["upstream_retries_total"] >= 20
    assert last["worker_restarts_total"] == 1
    assert last["records_sent_total"] == len(platform.records())
    tokens = Counter[str]()
    for record in platform.records():
        tokens.update({name: record["usage"][f"{name}_tokens"] or 0 for name in ("prompt", "completion")})
    assert (last["tokens_total prompt"], last["tokens_total completion"]) == (tokens["prompt"], tokens["completion"])
    text = one.status("/metrics")[1]
    assert [each.name for each in SERIES if f"# TYPE {each.name} " not in text] == []
    until(lambda: scrape(one)["records_held"] == 0, TIMEOUT, "a snapshot with no record held")


def test_page_readyz_and_log_have_the_same_reasons(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream
) -> None:
    one = node(MAX_PROCESS_NUM=4)
    upstream.mode = {"status": 401, "err_code": "invalid_api_key"}
    platform.ask()
    why = json.loads(one.wait_not_ready())["why"]
    (reason,) = why
    assert "refused the API key (401 invalid_api_key)" in reason
    readiness = json.loads(one.status("/readyz")[1])
    assert readiness["fitness"] == "unfit"
    assert ["probe" in each["what"] for each in readiness["next"]] == [True]
    page = html.unescape(one.status("/")[1])
    assert reason[1:] in page.partition('id="facts"')[0]  # the state, at the top; there it begins with a capital
    until(lambda: "AuthenticationError" in one.status("/")[1], TIMEOUT, "the report on the page")
    one.wait_log(reason)
    figures = scrape(one)
    assert figures["fitness_state unfit"] == 1
    assert figures["ready"] == 0


def test_a_taken_status_port_ends_the_node_with_exit_code_78(node: Callable[..., Node], platform: Platform) -> None:
    one = node()
    other = node(ready=False, STATUS_ADDR=one.status_addr)
    assert other.wait_exit() == 78
    assert f"STATUS_ADDR {one.status_addr} cannot be listened on: " in other.output
    assert "Traceback" not in other.output
