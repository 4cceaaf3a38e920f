"""Starts the telemetry where the settings name a collector."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Protocol

from supervisor.telemetry.process import TelemetryProcess
from workernode.protocol import Outcome
from workernode.record import Node
from workernode.settings import Settings

log = logging.getLogger(__name__)


class Telemetry(Protocol):
    """What gets every delivery that ended. Never raises, and never waits but in `close`."""

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
    if not is_installed():
        text = "OTEL_EXPORTER_OTLP_ENDPOINT names a collector, but the extra is missing: pip install 'workernode[otel]'"
        log.warning(text, extra={"event": "telemetry_missing"})
        return NoTelemetry()
    return TelemetryProcess(settings, node)


def is_installed() -> bool:
    """Return whether the extra `otel` is there. The supervisor itself imports nothing of it."""
    try:
        return all(
            find_spec(name) is not None for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ImportError:  # a package above it is missing
        return False
