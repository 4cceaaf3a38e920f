"""`--check`: the line about the collector of spans and metrics."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from devstack.ports import free_port
from supervisor.check import collector, command
from supervisor.check.findings import Context, Mark
from supervisor.model_server import ModelServer
from tests.support.check import context, one_line


def line(about: Context, can_export: bool = True) -> str:
    (found,) = collector.check_collector(about, lambda: can_export)
    assert found.mark is not Mark.FAULT  # the node serves without
    return one_line(found)


def test_without_a_collector_there_is_no_line() -> None:
    assert collector.checks(context().settings, lambda: True) == []


def test_a_collector_that_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        found = line(context(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{place}"))
    assert found.startswith(f"ok: {place} accepts connections")


def test_a_collector_where_nothing_listens_is_named_with_what_to_do() -> None:
    place = f"127.0.0.1:{free_port()}"
    found = line(context(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{place}"))
    assert found.startswith(f"warn: {place} cannot be connected to (it refuses the connection)")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in found


def test_of_several_addresses_the_one_where_nothing_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{free_port()}"
        traces = f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"
        metrics = f"http://{place}/v1/metrics"
        about = context(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=traces, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=metrics)
        assert f"{place} cannot be connected to" in line(about)


def test_an_endpoint_that_neither_spans_nor_metrics_use_is_not_checked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = f"http://127.0.0.1:{server.getsockname()[1]}/v1/all"
        about = context(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=used,
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=used,
        )
        assert line(about).startswith("ok:")


def test_without_the_extra_the_line_names_what_to_install() -> None:
    about = context(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert line(about, can_export=False).endswith("pip install 'workernode[otel]'")


def test_a_collector_behind_a_proxy_is_not_connected_to_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:canary-5e1f@proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    found = line(context(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.example:4318"))
    assert found.startswith("-: not checked")
    assert "canary" not in found


def test_the_headers_of_the_collector_are_not_shown() -> None:
    secret = "x-api-key=canary-5e1f"
    about = context(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", OTEL_EXPORTER_OTLP_HEADERS=secret)
    assert "canary" not in line(about)


@pytest.mark.parametrize("named", [True, False])
def test_the_table_has_the_line_where_a_collector_is_named(named: bool, tmp_path: Path) -> None:
    environ = {
        "NODE_TYPE": "remote", "MODEL_NAME": "m", "STATUS_ADDR": "off", "API_KEY": "k",
        "API_URL": f"http://127.0.0.1:{free_port()}", "PULSAR_URL": f"pulsar://127.0.0.1:{free_port()}",
    }  # fmt: skip
    if named:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    found = command.find(environ, tmp_path / ".env", ModelServer, lambda: True)
    assert [each.name for each in found].count("collector") == int(named)
