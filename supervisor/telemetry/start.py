"""Starts the telemetry where the settings name a collector."""

from __future__ import annotations

import logging
from typing import Protocol

from workernode.protocol import Outcome
from workernode.record import Node
from workernode.settings import Settings

log = logging.getLogger(__name__)


class Telemetry(Protocol):
    """Who is told of every delivery that ended. Never raises, and never waits but in `close`."""

    def ended(self, outcome: Outcome) -> None:
        """A delivery was decided."""

    def close(self, limit_s: float) -> None:
        """Send what was not sent yet, for so many seconds at most."""


class NoTelemetry:
    """There is no collector."""

    def ended(self, outcome: Outcome) -> None:
        """Do nothing."""

    def close(self, limit_s: float) -> None:
        """Do nothing."""


def start_telemetry(settings: Settings, node: Node) -> Telemetry:
    """Return the node's telemetry. It is silent where no collector is named, or where the extra is not installed."""
    if not (settings.exports_traces or settings.exports_metrics):
        return NoTelemetry()
    try:
        from supervisor.telemetry.exporter import OtelTelemetry
    except ImportError as error:
        text = "a collector is named (OTEL_EXPORTER_OTLP_ENDPOINT), but %s is missing: pip install 'workernode[otel]'"
        log.warning(text, error.name, extra={"event": "telemetry_missing"})
        return NoTelemetry()
    return OtelTelemetry(settings, node)
