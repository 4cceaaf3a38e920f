"""Spans and metrics of tasks for an OpenTelemetry collector, if one is named (OTLP over HTTP, extra `otel`).

Made when a task has ended, from its record, in a process of its own: a task never waits for it. Where no collector is
named, there is no such process, and nothing of OpenTelemetry is imported.
"""

from supervisor.telemetry.start import NoTelemetry, Telemetry, is_installed, start_telemetry

__all__ = ["NoTelemetry", "Telemetry", "is_installed", "start_telemetry"]
