"""An OpenTelemetry collector that keeps what it is sent: OTLP over HTTP, read with the protocol's own protobuf."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Listens on 127.0.0.1 until `close`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._traces: list[Any] = []
        self._metrics: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.bodies.append(body)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.path == "/v1/traces":
                    collector._traces.append(ExportTraceServiceRequest.FromString(body))
                elif self.path == "/v1/metrics":
                    collector._metrics.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What goes to OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def resources(self) -> list[dict[str, Any]]:
        """The attributes of who sent spans."""
        return [_values(each.resource.attributes) for sent in list(self._traces) for each in sent.resource_spans]

    def spans(self, trace_id: str = "") -> list[dict[str, Any]]:
        """The spans of a trace, or all: name, ids in hexadecimal, moments in nanoseconds, attributes, events."""
        return [span for span in self._spans() if not trace_id or span["trace_id"] == trace_id]

    def _spans(self) -> Iterator[dict[str, Any]]:
        for sent in list(self._traces):
            for scope in (scope for resource in sent.resource_spans for scope in resource.scope_spans):
                for span in scope.spans:
                    yield {
                        "name": span.name,
                        "trace_id": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "kind": span.kind,
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "attributes": _values(span.attributes),
                        "events": [(event.name, event.time_unix_nano) for event in span.events],
                        "is_error": span.status.code == 2,
                    }

    def points(self, name: str) -> list[dict[str, Any]]:
        """The newest points of a histogram: attributes, count and sum."""
        for sent in reversed(list(self._metrics)):
            for scope in (scope for resource in sent.resource_metrics for scope in resource.scope_metrics):
                for metric in scope.metrics:
                    if metric.name == name:
                        points = metric.histogram.data_points
                        return [
                            {"attributes": _values(one.attributes), "count": one.count, "sum": one.sum}
                            for one in points
                        ]
        return []

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
