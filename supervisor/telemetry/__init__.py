"""Spans and metrics of tasks for an OpenTelemetry collector, if one is named (OTLP over HTTP, extra `otel`).

Made in the supervisor when a task has ended, from its record, and sent by the SDK's own threads: a task never waits for
it. Nothing of OpenTelemetry is imported where no collector is named.
"""

from supervisor.telemetry.start import NoTelemetry, Telemetry, start_telemetry

__all__ = ["NoTelemetry", "Telemetry", "start_telemetry"]
