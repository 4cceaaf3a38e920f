"""With OTEL_EXPORTER_OTLP_ENDPOINT the spans and metrics of tasks reach a collector; without it nothing is imported."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "Bearer sk-of-the-collector"
MILLISECOND = 1_000_000  # nanoseconds


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def with_trace(**headers: str) -> dict[str, Any]:
    return {"metadata": {"headers": {name.replace("_", "-"): [value] for name, value in headers.items()}}}


def ns(moment: str) -> int:
    return round(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() * 1000) * MILLISECOND


def test_a_task_is_one_trace_from_the_queue_to_the_last_chunk_and_agrees_with_its_record(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream, collector: Collector
) -> None:
    one = node(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_HEADERS=f"authorization={SECRET}",
        OTEL_SERVICE_NAME="nodes", OTEL_BSP_SCHEDULE_DELAY="100",
    )  # fmt: skip
    task = with_trace(Traceparent=f"00-{TRACE}-{CLIENT_SPAN}-01", Tracestate="a=1", X_Request_Id="r-7", Cookie="c")
    ask = {"latency_ms": 30, "chunk_ms": 10}
    id = platform.ask(ask, stream=True, task=task, max_tokens=50, messages_are="a prompt of mine")
    platform.gateway.answer(id).wait(30)
    own = platform.ask("plain")
    platform.gateway.answer(own).wait(30)
    failed = platform.ask({"status": 400, "err_code": "bad"}, task=with_trace(Traceparent="nonsense"))
    platform.gateway.answer(failed).wait(30)
    platform.wait_records(lambda record: True, 3)
    record, own_record, failed_record = (platform.record_of(each) for each in (id, own, failed))
    until(lambda: len(collector.spans(TRACE)) == 5, 30, "five spans")
    spans = {span["name"]: span for span in collector.spans(TRACE)}
    topic = f"process {platform.topic}"
    chat = f"chat {platform.model}"
    assert list(spans) == [topic, "queue wait", "slot wait", chat, "answer"]

    root = spans[topic]
    assert root["parent"] == CLIENT_SPAN
    assert {span["parent"] for name, span in spans.items() if name != topic} == {root["id"]}
    (asked,) = [each for each in upstream.requests if each.headers["x-client-request-id"] == id]
    assert asked.headers["traceparent"] == f"00-{TRACE}-{spans[chat]['id']}-01"
    assert (asked.headers["tracestate"], asked.headers["x-request-id"]) == ("a=1", "r-7")
    assert "cookie" not in asked.headers
    assert record["trace_id"] == TRACE
    (line,) = [each for each in one.logs() if each["event"] == "task_ended" and each["request_id"] == id]
    assert line["trace_id"] == TRACE

    # The figures of the spans are those of the record.
    took, at = record["durations_ms"], record["timestamps"]
    for name, length in (
        ("queue wait", took["queued"]), ("slot wait", took["waiting"]), (chat, took["upstream"]),
        ("answer", took["answer"]), (topic, took["queued"] + took["total"]),
    ):  # fmt: skip
        assert abs(spans[name]["end"] - spans[name]["start"] - length * MILLISECOND) < MILLISECOND, name
    for name, edge, moment in (
        (topic, "start", "published"), ("queue wait", "end", "received"), (chat, "start", "upstream_sent"),
        (chat, "end", "upstream_done"), ("answer", "end", "answered"),
    ):  # fmt: skip
        assert abs(spans[name][edge] - ns(at[moment])) <= MILLISECOND, (name, moment)
    ((event, first),) = spans[chat]["events"]
    assert event == "first chunk"
    assert abs(first - ns(at["first_token"])) <= MILLISECOND
    attributes = spans[chat]["attributes"]
    assert attributes["gen_ai.operation.name"] == "chat"
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (
        record["usage"]["prompt_tokens"], record["usage"]["completion_tokens"],
    )  # fmt: skip
    assert (attributes["gen_ai.request.max_tokens"], attributes["gen_ai.response.finish_reasons"]) == (50, ["stop"])
    assert collector.resources()[0]["service.name"] == "nodes"

    # A trace begins here where the client has none, and what failed is an error in it.
    until(lambda: len(collector.spans(failed_record["trace_id"])) >= 4, 30, "the spans of the task that failed")
    begun = {span["name"]: span for span in collector.spans(own_record["trace_id"])}
    assert begun[topic]["parent"] == ""
    assert len({TRACE, own_record["trace_id"], failed_record["trace_id"]}) == 3
    wrong = {span["name"]: span for span in collector.spans(failed_record["trace_id"])}
    assert [wrong[name]["is_error"] for name in (topic, chat)] == [True, True]
    assert wrong[chat]["attributes"]["error.type"] == "bad"
    assert not any(span["is_error"] for span in [*spans.values(), *begun.values()])

    # The metrics leave at the latest when the node stops. Nothing that was sent holds a prompt.
    one.sigterm()
    assert one.wait_exit() == 0
    tokens = {each["attributes"]["gen_ai.token.type"]: each for each in collector.points("gen_ai.client.token.usage")}
    records = (record, own_record)
    assert tokens["input"]["sum"] == sum(each["usage"]["prompt_tokens"] for each in records)
    assert tokens["output"]["sum"] == sum(each["usage"]["completion_tokens"] for each in records)
    durations = collector.points("gen_ai.client.operation.duration")
    assert {each["attributes"].get("error.type"): each["count"] for each in durations} == {None: 2, "bad": 1}
    assert [each["count"] for each in collector.points("gen_ai.client.operation.time_to_first_chunk")] == [1]
    assert {headers["authorization"] for headers in collector.headers} == {SECRET}
    sent = b"".join(collector.bodies)
    for text in (b"prompt of mine", b"w\xc3\xb6rd", b"lab:", b"latency_ms"):
        assert text not in sent
    assert SECRET not in one.tail() + "".join(map(str, one.logs()))


def test_a_collector_that_is_away_costs_no_task_and_a_client_that_wants_no_trace_gets_none(
    node: Callable[..., Node], platform: Platform, collector: Collector
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/metrics"
        one = node(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=away, OTEL_METRIC_EXPORT_INTERVAL="100", OTEL_BSP_SCHEDULE_DELAY="100",
        )  # fmt: skip
        unwanted = with_trace(Traceparent=f"00-{TRACE}-{CLIENT_SPAN}-00")
        ids = platform.ask_many(["hello"] * 50)
        ids.append(platform.ask("hello", task=unwanted))
        for id in ids:
            assert platform.gateway.answer(id).wait(30).ends == 0
        until(lambda: [1 for line in one.logs() if line["event"] == "telemetry_failed"], 60, "a line")
        until(lambda: len({span["trace_id"] for span in collector.spans()}) == 50, 30, "50 traces")
        assert TRACE not in {span["trace_id"] for span in collector.spans()}
        one.sigterm()
        assert one.wait_exit() == 0
