"""Hands spans and metrics to OpenTelemetry's SDK, whose threads send them (OTLP over HTTP). The only module with it."""

from __future__ import annotations

import logging
import threading
import time
from urllib.parse import urlsplit

import requests
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.re import parse_env_headers

from supervisor.telemetry.spans import Ended, Facts, Kind, Names, Span, read_record, request_model, spans_of
from workernode.record import Node
from workernode.settings import Settings
from workernode.trace_context import SAMPLED, TraceContext, new_span_id
from workernode.version import version

log = logging.getLogger(__name__)

WARN_EVERY = 60.0  # seconds between two log lines about a collector that is away
MOST_MODELS = 100  # that have figures of their own: a client decides what model it asks for
KINDS = {Kind.INTERNAL: api.SpanKind.INTERNAL, Kind.CLIENT: api.SpanKind.CLIENT, Kind.CONSUMER: api.SpanKind.CONSUMER}
FINE, FAILED = api.Status(api.StatusCode.UNSET), api.Status(api.StatusCode.ERROR)
SCOPE = InstrumentationScope("workernode", version())
# Bounds of the histograms, as the conventions for GenAI name them.
TOKEN_BOUNDS = [4**power for power in range(14)]
SECOND_BOUNDS = [round(0.01 * 2**power, 2) for power in range(14)]
CHUNK_BOUNDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]


class OtelTelemetry:
    """What the settings name a collector for: spans, metrics, or both."""

    def __init__(self, settings: Settings, node: Node) -> None:
        """Start the SDK's threads. Variables OTEL_* that are not in `Settings` are read by the SDK."""
        _report_failures()
        resource = _resource(node)
        base = settings.otel_exporter_otlp_endpoint.rstrip("/")
        self._names = _names(settings)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._resource = self._provider.resource
        self._spans: BatchSpanProcessor | None = None
        self._metrics: _GenAiMetrics | None = None
        headers = parse_env_headers(settings.otel_exporter_otlp_headers, liberal=True) or None
        if settings.exports_traces:
            address = settings.otel_exporter_otlp_traces_endpoint or f"{base}/v1/traces"
            self._spans = BatchSpanProcessor(OTLPSpanExporter(address, headers=headers, session=_session()))
        if settings.exports_metrics:
            address = settings.otel_exporter_otlp_metrics_endpoint or f"{base}/v1/metrics"
            reader = PeriodicExportingMetricReader(OTLPMetricExporter(address, headers=headers, session=_session()))
            self._metrics = _GenAiMetrics(MeterProvider([reader], resource, shutdown_on_exit=False))

    def add(self, ended: Ended) -> None:
        """A delivery was decided."""
        facts = read_record(ended.record)
        if self._metrics is not None:
            self._metrics.add(ended, facts, self._names)
        if self._spans is not None:
            self._add_spans(self._spans, ended, facts)

    def close(self, limit_s: float) -> None:
        """Send what was not sent yet, for so many seconds at most."""
        threads = [threading.Thread(target=self._provider.shutdown, daemon=True)]
        if self._spans is not None:
            threads.append(threading.Thread(target=self._spans.shutdown, daemon=True))
        if self._metrics is not None:
            threads.append(threading.Thread(target=self._metrics.provider.shutdown, daemon=True))
        until = time.monotonic() + limit_s
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _add_spans(self, processor: BatchSpanProcessor, ended: Ended, facts: Facts) -> None:
        trace = ended.trace
        if not self._is_sampled(trace):
            return
        trace_id, flags = int(trace.trace_id, 16), api.TraceFlags(trace.flags | SAMPLED)

        def context(span_id: str, is_remote: bool = False) -> api.SpanContext:
            return api.SpanContext(trace_id, int(span_id, 16), is_remote, flags)

        for each in spans_of(ended, facts, self._names, new_span_id):
            parent = context(each.parent, is_remote=each.parent == trace.parent_id) if each.parent else None
            processor.on_end(_readable(each, context(each.id), parent, self._resource))

    def _is_sampled(self, trace: TraceContext) -> bool:
        """Whether the trace is kept: by default as the client wishes, else by OTEL_TRACES_SAMPLER."""
        trace_id, parent = int(trace.trace_id, 16), None
        if trace.parent_id:
            span = api.SpanContext(trace_id, int(trace.parent_id, 16), True, api.TraceFlags(trace.flags))
            parent = api.set_span_in_context(api.NonRecordingSpan(span))
        result = self._provider.sampler.should_sample(parent, trace_id, f"process {self._names.topic}")
        return result.decision is Decision.RECORD_AND_SAMPLE


class _GenAiMetrics:
    """The client metrics of the conventions for GenAI."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        meter = provider.get_meter("workernode", SCOPE.version)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BOUNDS,
        )  # fmt: skip
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=SECOND_BOUNDS,
        )  # fmt: skip
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=CHUNK_BOUNDS,
        )  # fmt: skip
        self._models: set[str] = set()

    def add(self, ended: Ended, facts: Facts, names: Names) -> None:
        """Count one delivery, if upstream was asked."""
        took = facts.durations_ms
        if facts.timestamps.upstream_sent is None:
            return
        about = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": self._known(request_model(names, facts)),
            **names.server,
        }
        if ended.upstream_answered:
            about["gen_ai.response.model"] = self._known(facts.upstream_model or "")
        for kind, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if (tokens := facts.usage.get(name)) is not None:
                self._tokens.record(tokens, {**about, "gen_ai.token.type": kind})
        if ended.stream and took.upstream_first_token is not None:
            self._first_chunk.record(took.upstream_first_token / 1000, about)
        if ended.error:
            about["error.type"] = self._known(ended.error)
        duration = took.upstream if took.upstream is not None else took.total
        if duration is not None:
            self._duration.record(duration / 1000, about)

    def _known(self, name: str) -> str:
        """The name, or `_OTHER` where there are too many different ones."""
        if name not in self._models and len(self._models) >= MOST_MODELS:
            return "_OTHER"
        self._models.add(name)
        return name


def _readable(span: Span, context: api.SpanContext, parent: api.SpanContext | None, resource: Resource) -> ReadableSpan:
    events = () if span.first_chunk is None else [Event("first chunk", timestamp=span.first_chunk)]
    attributes = {**span.attributes, "error.type": span.error} if span.error else span.attributes
    return ReadableSpan(
        span.name, context, parent, resource, attributes, events, (), KINDS[span.kind],
        status=FAILED if span.error else FINE,
        start_time=span.start, end_time=span.end, instrumentation_scope=SCOPE,
    )  # fmt: skip


def _resource(node: Node) -> Resource:
    """Which node it is, and what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say, which win."""
    ours = {SERVICE_VERSION: node.version, SERVICE_INSTANCE_ID: node.id, "host.name": node.host}
    named = Resource.create()
    if str(named.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        named = named.merge(Resource({SERVICE_NAME: "workernode"}))
    return Resource(ours).merge(named)


def _names(settings: Settings) -> Names:
    server = {}
    if settings.node_type == "remote":
        parts = urlsplit(settings.api_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        server = {"server.address": parts.hostname or "", "server.port": port}
    return Names(f"model-{settings.model_name}", settings.upstream_model, server)


def _session() -> requests.Session:
    """A session that follows no redirect: the headers for the collector may hold a key."""
    session = requests.Session()
    session.max_redirects = 0
    return session


class _Failures(logging.Handler):
    """Turns what the SDK logs of a collector that is away into one log line a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + WARN_EVERY
        text = "spans or metrics do not reach the collector, and some of them are lost: %s"
        log.warning(text, record.getMessage()[:300], extra={"event": "telemetry_failed"})


def _report_failures() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Failures()]
