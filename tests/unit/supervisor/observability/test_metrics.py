"""The figures: every series from the start, the table in docs/metrics.md, and sums that are right at any moment."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.observability import metric_table as series
from supervisor.observability.metric_table import SERIES, Type
from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import INTAKES, Accounts, Snapshot
from tests.support.paths import ROOT
from tests.support.status import ABOUT, outcome, serving
from workernode import attempt
from workernode.protocol import Decision, Durations, FaultKind, RateLimitReport

NEW = Snapshot(0.0)


def scrape(metrics: Metrics, now: Snapshot = NEW) -> dict[tuple[str, ...], float]:
    """The samples: name, then the values of its labels."""
    families = text_string_to_metric_families(metrics.render(now).decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_every_series_is_there_from_the_start() -> None:
    found = scrape(Metrics(ABOUT))
    for each in SERIES:
        if each.type is Type.HISTOGRAM:
            assert found[f"{each.name}_count",] == found[f"{each.name}_bucket", "+Inf"] == 0
        for value in each.values:
            assert (each.name, value) in found
    assert {name for name, value in found.items() if value} == {
        ("workernode_state", "starting"),
        ("workernode_intake_state", "closed"),
        ("workernode_cap_reason", "start"),
        ("workernode_fitness_state", "fit"),
        ("workernode_build_info", ABOUT.version),
    }


def test_names_follow_the_trades_conventions() -> None:
    assert len({each.name for each in SERIES}) == len(SERIES)
    for each in SERIES:
        assert re.fullmatch(r"workernode_[a-z0-9_]+", each.name)
        assert each.name.endswith("_total") == (each.type is Type.COUNTER), each.name
        assert each.name.endswith("_seconds") == (each.type is Type.HISTOGRAM), each.name
        assert not re.search(r"_(ms|percent|mb|kb)\b", each.name)
        assert bool(each.label) == (bool(each.values) or each.name.endswith("_info")), each.name


def test_the_table_in_the_docs_is_the_table_in_the_code() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(workernode_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    wanted = []
    for each in SERIES:
        label = f"`{each.label}`: {', '.join(each.values) or 'free text'}" if each.label else ""
        wanted.append((each.name, each.type.value, label, each.meaning))
    assert rows == wanted
    for words in (series.STATUSES, series.CAP_REASONS, INTAKES):
        for name, meaning in words.items():
            assert f"| `{name}` | {meaning} |" in text


def test_a_task_leaves_its_traces() -> None:
    metrics = Metrics(ABOUT)
    metrics.taken(2)
    metrics.decided(outcome(attempts=3))
    metrics.record_stored()
    metrics.settled(Decision.ACK)
    found = scrape(metrics)
    assert found["workernode_tasks_taken_total",] == 1
    assert found["workernode_task_redeliveries_total",] == 1
    assert found["workernode_upstream_retries_total",] == 2
    assert found["workernode_task_outcomes_total", "answered"] == 1
    assert found["workernode_task_decisions_total", "ack"] == 1
    assert found["workernode_tokens_total", "prompt"] == 10
    assert found["workernode_tokens_total", "completion"] == 20
    assert found["workernode_records_sent_total",] == 1
    assert found["workernode_tasks_in_flight",] == 0
    assert found["workernode_task_total_seconds_sum",] == 1.6
    below = {name[1]: value for name, value in found.items() if name[0] == "workernode_task_total_seconds_bucket"}
    assert below["1.0"] == 0
    assert below["2.5"] == below["+Inf"] == found["workernode_task_total_seconds_count",] == 1


def test_a_stage_that_was_not_reached_is_not_counted() -> None:
    metrics = Metrics(ABOUT)
    metrics.decided(outcome("expired", attempts=0, durations=Durations(queue=301.0, total=0.01)))
    found = scrape(metrics)
    assert found["workernode_task_queue_seconds_count",] == 1
    assert found["workernode_task_queue_seconds_bucket", "300.0"] == 0
    assert found["workernode_task_upstream_seconds_count",] == 0
    assert found["workernode_upstream_retries_total",] == 0


def test_an_outcome_of_another_name_is_counted_as_other() -> None:
    metrics = Metrics(ABOUT)
    metrics.decided(outcome("something_new"))
    assert scrape(metrics)["workernode_task_outcomes_total", "other"] == 1


def test_limits_are_counted_by_kind() -> None:
    metrics = Metrics(ABOUT)
    for kind in (FaultKind.RATE_LIMIT, FaultKind.RATE_LIMIT, FaultKind.QUOTA, None):
        metrics.limit_seen(RateLimitReport(0.0, kind, unknown_formats=1))
    metrics.worker_died()
    metrics.duplicate()
    found = scrape(metrics)
    assert found["workernode_upstream_429_total", "rate_limit"] == 2
    assert found["workernode_upstream_429_total", "quota"] == 1
    assert found["workernode_upstream_429_total", "ramp"] == 0
    assert found["workernode_upstream_limit_headers_unread_total",] == 4
    assert found["workernode_worker_restarts_total",] == 1
    assert found["workernode_task_duplicates_total",] == 1


def test_the_snapshot_is_shown() -> None:
    found = scrape(Metrics(ABOUT), serving(0.0, fitness="limited", records_held=3, held_back=4))
    assert found["workernode_cap",] == 8
    assert found["workernode_ready",] == found["workernode_broker_connected",] == 1
    assert found["workernode_cpu_usage_ratio",] == pytest.approx(0.612)
    assert found["workernode_memory_limit_bytes",] == 16 << 30
    assert found["workernode_records_held",] == 3
    assert found["workernode_backlog_held_back",] == 4
    for name, value in (("fitness_state", "limited"), ("child_state", "ready"), ("cap_reason", "best")):
        one_hot = {key[1]: figure for key, figure in found.items() if key[0] == f"workernode_{name}"}
        assert [each for each, figure in one_hot.items() if figure] == [value]


def test_sums_are_right_at_any_moment() -> None:
    metrics = Metrics(ABOUT)
    done = threading.Event()

    def work() -> None:
        decisions = list(Decision)
        while not done.is_set():
            for number in range(7):
                metrics.taken(0)
                metrics.taken(0)
                metrics.settled(decisions[number % 3])
            for number in range(7):
                metrics.settled(decisions[number % 3])

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # the owner is interrupted in the middle of what it does
    owner = threading.Thread(target=work)
    owner.start()
    try:
        for _ in range(100):
            found = scrape(metrics)
            decided = sum(found["workernode_task_decisions_total", each.value] for each in Decision)
            assert found["workernode_tasks_taken_total",] == decided + found["workernode_tasks_in_flight",]
            assert 0 <= found["workernode_tasks_in_flight",] <= 8
    finally:
        done.set()
        owner.join()
        sys.setswitchinterval(before)
    assert metrics.accounts.in_flight == 0
    assert metrics.accounts.taken > 0


def test_in_flight_is_what_was_taken_and_not_decided() -> None:
    assert Accounts(taken=10, acked=5, sent_back=2, dead_lettered=1).in_flight == 2


def test_every_way_a_delivery_can_end_has_its_name_in_the_table() -> None:
    """The names are words in the source, where a decision is made of them."""
    ways = {*attempt.NAK_STATUS.values(), *attempt.ANSWER_STATUS.values()}
    for file in ("workernode/attempt.py", "supervisor/dispatcher.py"):
        for call in ast.walk(ast.parse((ROOT / file).read_text())):
            if not isinstance(call, ast.Call):
                continue
            words = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            names = {each.attr for each in call.args if isinstance(each, ast.Attribute)}
            if words and names & set(Decision.__members__):
                ways.add(words[0])
    assert {"answered", "malformed", "worker_died", "drained"} <= ways
    assert ways <= set(series.STATUSES)


def test_the_library_is_loaded_by_the_first_scrape_only() -> None:
    code = "import sys, supervisor.observability.status_server; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
