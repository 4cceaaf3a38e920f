"""The metrics: every series from the start, the table in docs/metrics.md, totals that agree in every scrape."""

from __future__ import annotations

import ast
import re
import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.observability import metric_table as series
from supervisor.observability.metric_table import SERIES, Type
from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import INTAKES, MessageTotals, Snapshot
from supervisor.readings import Gpu
from tests.support.paths import ROOT
from tests.support.status import INFO, outcome, serving
from workernode import ends
from workernode.protocol import Decision, Durations, FaultKind, RateLimitReport

NEW = Snapshot(0.0)


def scrape(metrics: Metrics, now: Snapshot = NEW) -> dict[tuple[str, ...], float]:
    """The samples: name, then the values of its labels."""
    families = text_string_to_metric_families(metrics.render(now).decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_every_series_is_there_from_the_start() -> None:
    found = scrape(Metrics(INFO))
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
        ("workernode_build_info", INFO.model, INFO.node_type, INFO.version),
    }


def test_a_task_that_comes_too_late_has_no_time_left() -> None:
    metrics = Metrics(INFO)
    for time_left in (299.5, 7.0, -40.0):
        metrics.taken(0, time_left)
    found = scrape(metrics)
    name = "workernode_task_time_left_seconds"
    buckets = [found[f"{name}_bucket", le] for le in ("0.001", "10.0", "300.0", "+Inf")]
    assert (buckets, found[f"{name}_sum",]) == ([1, 2, 3, 3], 306.5)


def test_each_gpu_has_its_series_and_what_its_driver_does_not_report_is_left_out() -> None:
    gpus = (Gpu("0", "RTX", 5, 10, 80.0, 60.0), Gpu("1", "Old", 1, 4))
    found = scrape(Metrics(INFO), serving(0.0, gpus=gpus))
    shown = {key: value for key, value in found.items() if key[0].startswith("workernode_gpu")}
    assert shown == {
        ("workernode_gpu_memory_used_bytes", "0"): 5,
        ("workernode_gpu_memory_used_bytes", "1"): 1,
        ("workernode_gpu_memory_limit_bytes", "0"): 10,
        ("workernode_gpu_memory_limit_bytes", "1"): 4,
        ("workernode_gpu_usage_ratio", "0"): 0.8,
        ("workernode_gpu_temperature_celsius", "0"): 60,
    }


def test_names_follow_prometheus_conventions() -> None:
    assert len({each.name for each in SERIES}) == len(SERIES)
    for each in SERIES:
        assert re.fullmatch(r"workernode_[a-z0-9_]+", each.name)
        assert each.name.endswith("_total") == (each.type is Type.COUNTER), each.name
        assert each.name.endswith("_seconds") or each.type is not Type.HISTOGRAM, each.name
        assert not re.search(r"_(ms|percent|mb|kb)\b", each.name)
        assert bool(each.label) == (bool(each.values) or each.label == "gpu"), each.name
        assert (each.info is not None) == each.name.endswith("_info"), each.name


def test_the_table_in_the_docs_is_the_table_in_the_code() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(workernode_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    wanted = []
    for each in SERIES:
        label = f"`{each.label}`: {', '.join(each.values) or 'its number'}" if each.label else ""
        if each.info:
            label = ", ".join(f"`{name}`" for name in each.info(INFO)) + ": free text"
        wanted.append((each.name, each.type.value, label, each.meaning))
    assert rows == wanted
    for words in (series.STATUSES, series.CAP_REASONS, INTAKES):
        for name, meaning in words.items():
            assert f"| `{name}` | {meaning} |" in text


def test_an_answered_task_is_counted_in_every_series_concerned() -> None:
    metrics = Metrics(INFO)
    metrics.taken(2, 300.0)
    metrics.decided(outcome(attempts=3, resumes=1))
    metrics.record_stored()
    metrics.settled(Decision.ACK)
    found = scrape(metrics)
    assert found["workernode_tasks_taken_total",] == 1
    assert found["workernode_task_redeliveries_total",] == 1
    assert found["workernode_upstream_retries_total",] == 2
    assert found["workernode_stream_resumes_total",] == 1
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


def test_a_stage_that_was_not_reached_is_not_observed() -> None:
    metrics = Metrics(INFO)
    metrics.decided(outcome("expired", attempts=0, durations=Durations(queue=301.0, total=0.01)))
    found = scrape(metrics)
    assert found["workernode_task_queue_seconds_count",] == 1
    assert found["workernode_task_queue_seconds_bucket", "300.0"] == 0
    assert found["workernode_task_upstream_seconds_count",] == 0
    assert found["workernode_upstream_retries_total",] == 0


def test_an_unknown_status_is_counted_as_other() -> None:
    metrics = Metrics(INFO)
    metrics.decided(outcome("something_new"))
    assert scrape(metrics)["workernode_task_outcomes_total", "other"] == 1


def test_rate_limits_are_counted_by_kind() -> None:
    metrics = Metrics(INFO)
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


def test_gauges_have_the_snapshots_figures() -> None:
    found = scrape(Metrics(INFO), serving(0.0, fitness="limited", records_held=3, held_back=4))
    assert found["workernode_cap",] == 8
    assert found["workernode_ready",] == found["workernode_broker_connected",] == 1
    assert found["workernode_cpu_usage_ratio",] == pytest.approx(0.612)
    assert found["workernode_memory_limit_bytes",] == 16 << 30
    assert found["workernode_records_held",] == 3
    assert found["workernode_backlog_held_back",] == 4
    for name, value in (("fitness_state", "limited"), ("child_state", "ready"), ("cap_reason", "best")):
        one_hot = {key[1]: figure for key, figure in found.items() if key[0] == f"workernode_{name}"}
        assert [each for each, figure in one_hot.items() if figure] == [value]


def test_taken_is_decided_plus_in_flight_in_every_scrape() -> None:
    metrics = Metrics(INFO)
    done = threading.Event()

    def work() -> None:
        decisions = list(Decision)
        while not done.is_set():
            for number in range(7):
                metrics.taken(0, 300.0)
                metrics.taken(0, 300.0)
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
    assert metrics.totals.in_flight == 0
    assert metrics.totals.taken > 0


def test_in_flight_is_taken_minus_decided() -> None:
    assert MessageTotals(taken=10, acked=5, nakked=2, dead_lettered=1).in_flight == 2


def test_every_status_in_the_code_is_in_the_table() -> None:
    """A status is a text beside a Decision in the source."""
    ways = {*ends.NAK_STATUS.values(), *ends.ANSWER_STATUS.values()}
    single = ("workernode/attempt.py", "workernode/ends.py", "supervisor/dispatcher.py", "supervisor/workers/death.py")
    for file in (*(ROOT / name for name in single), *(ROOT / "supervisor/deliveries").glob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call):
                continue
            words = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            names = {each.attr for each in call.args if isinstance(each, ast.Attribute)}
            if words and names & set(Decision.__members__):
                ways.add(words[0])
    assert {"answered", "malformed", "worker_died", "drained"} <= ways
    assert ways <= set(series.STATUSES)
