"""deploy/helm/workernode/rules.yaml: each alert fires when it should, and only then. promtool evaluates it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.promtool import find_promtool

RULES = ROOT / "deploy/helm/workernode/rules.yaml"
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
INSTANCE = "10.0.0.7:9464"

# A metric's values, a minute apart, in promtool's notation: `0x9` is ten times 0, `0+1x9` grows by 1.
# The alert, the metric, its values, minutes after which is asked, whether the alert fires then.
HISTORIES = {
    "never ready": ("WorkerNodeNotReady", "workernode_ready", "0x20", 6, True),
    "not ready for less than five minutes": ("WorkerNodeNotReady", "workernode_ready", "1x9 0x9", 14, False),
    "not ready for more than five minutes": ("WorkerNodeNotReady", "workernode_ready", "1x9 0x9", 16, True),
    "ready again": ("WorkerNodeNotReady", "workernode_ready", "0x9 1x9", 11, False),
    "ready now and then": ("WorkerNodeNotReady", "workernode_ready", "0 0 0 0 1 0 0 0 0 1 0 0 0 0", 13, False),
    "held for a moment": ("WorkerNodeRecordsHeld", "workernode_records_held", "0 40 0 5 0 6 0 0 0 0 0 9", 11, False),
    "records are held": ("WorkerNodeRecordsHeld", "workernode_records_held", "0 0 3+1x20", 14, True),
    "records are stored again": ("WorkerNodeRecordsHeld", "workernode_records_held", "3x12 0x9", 14, False),
    "three workers die": ("WorkerNodeWorkersDie", "workernode_worker_restarts_total", "0x5 1 2 3x8", 9, False),
    "workers die again and again": ("WorkerNodeWorkersDie", "workernode_worker_restarts_total", "0+1x20", 11, True),
    "workers died an hour ago": ("WorkerNodeWorkersDie", "workernode_worker_restarts_total", "0+1x9 9x60", 65, False),
    "the node starts anew": ("WorkerNodeWorkersDie", "workernode_worker_restarts_total", "9x5 0x9", 10, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    return find_promtool()


def run(promtool: str, *arguments: str, folder: Path) -> None:
    done = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules(promtool: str, tmp_path: Path) -> None:
    run(promtool, "check", "rules", str(RULES), folder=tmp_path)


def test_each_alert_has_a_history_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {(alert, fires) for alert, _, _, _, fires in HISTORIES.values()} == {
        (alert, fires) for alert in ALERTS for fires in (True, False)
    }


@pytest.mark.parametrize(("alert", "metric", "values", "minutes", "fires"), HISTORIES.values(), ids=HISTORIES.keys())
def test_the_alert_fires_when_it_should(
    promtool: str, tmp_path: Path, alert: str, metric: str, values: str, minutes: int, fires: bool
) -> None:
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]  # promtool would compare their text as well
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    severity = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    expected = [{"exp_labels": {"severity": severity[alert], "instance": INSTANCE}}] if fires else []
    history = {
        "interval": "1m",
        "input_series": [{"series": f'{metric}{{instance="{INSTANCE}"}}', "values": values}],
        "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": expected}],
    }
    case = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [history]}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    run(promtool, "test", "rules", "case.yaml", folder=tmp_path)


def test_the_operations_page_names_what_each_alert_asks_for() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    section = page.split("## Metrics\n")[1].split("\n## ")[0]
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    asked = {name for rule in rules for name in re.findall(r"workernode_\w+", rule["expr"])}
    assert {name for name in re.findall(r"workernode_\w+", section) if not name.endswith("_seconds")} == asked
