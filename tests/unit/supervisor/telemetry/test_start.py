"""OpenTelemetry is imported only where a collector is named, and a node without it serves all the same."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from supervisor.telemetry import NoTelemetry, start_telemetry
from workernode.record import Node
from workernode.settings import Settings, load

NODE = Node("node-1", "host-a", "remote", "1.2.3")
REMOTE = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "m",
    "API_URL": "http://127.0.0.1",
    "API_KEY": "k",
    "PULSAR_URL": "pulsar://h",
}
COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def settings(**variables: str) -> Settings:
    return load({**REMOTE, **variables})


def test_without_a_collector_there_is_no_telemetry_and_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, supervisor.assembly, supervisor.telemetry as t\n"
        "from tests.unit.supervisor.telemetry.test_start import NODE, settings\n"
        "made = t.start_telemetry(settings(), NODE)\n"
        "assert isinstance(made, t.NoTelemetry)\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_the_extra_is_missing_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "supervisor.telemetry.exporter", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with caplog.at_level(logging.WARNING):
        made = start_telemetry(settings(**COLLECTOR), NODE)
    assert isinstance(made, NoTelemetry)
    ((_, level, text),) = caplog.record_tuples
    assert (level, caplog.records[0].event) == (logging.WARNING, "telemetry_missing")  # type: ignore[attr-defined]
    assert "pip install 'workernode[otel]'" in text


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({}, False, False),
        (COLLECTOR, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h/t"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h/m"}, False, True),
    ],
    ids=["none", "both", "traces", "metrics"],
)
def test_each_signal_goes_where_its_variable_says(variables: dict[str, str], traces: bool, metrics: bool) -> None:
    made = settings(**variables)
    assert (made.exports_traces, made.exports_metrics) == (traces, metrics)


def test_the_key_for_the_collector_is_a_secret() -> None:
    made = settings(OTEL_EXPORTER_OTLP_HEADERS="x-team=a1,authorization=Bearer%20sk-collector")
    assert {"Bearer sk-collector", "sk-collector"} <= set(made.secrets)
    assert "sk-collector" not in repr(made)
