"""`--check`: can spans and metrics be sent? Checked only where a collector is named; nothing is sent to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from supervisor.check.findings import Check, Context, Finding, Mark
from workernode.settings import Settings
from workernode.upstream import describe_failure

NAME = "collector"
PATIENCE = 3.0  # seconds to connect
ADVICE = "start it, or correct OTEL_EXPORTER_OTLP_ENDPOINT (HTTP: port 4318)"
PORTS = {"http": 80, "https": 443}


def checks(settings: Settings, can_export: Callable[[], bool]) -> list[Check]:
    """Return the checks of this module: none where no collector is named."""
    return [Check((NAME,), partial(check_collector, can_export=can_export))] if _urls(settings) else []


def check_collector(context: Context, can_export: Callable[[], bool]) -> Iterator[Finding]:
    """Check that the extra `otel` is installed, and that something listens at each address. The node serves without.

    Args:
        can_export: whether the extra is installed.
    """
    if not can_export():
        text = "a collector is named, but OpenTelemetry's packages are missing: no spans or metrics are sent to it"
        yield Finding(NAME, Mark.WARNING, text, "pip install 'workernode[otel]'")
        return
    urls = _urls(context.settings)
    places = sorted({_place(url) for url in urls if not _needs_proxy(url)})
    for host, port in places:
        try:
            socket.create_connection((host, port), PATIENCE).close()
        except OSError as error:
            why = describe_failure(error)
            text = f"{_shown(host, port)} cannot be connected to ({why}): spans and metrics are lost"
            yield Finding(NAME, Mark.WARNING, text, ADVICE)
            return
    if not places:
        yield Finding(NAME, Mark.SKIPPED, "not checked: it is reached through a proxy (HTTP_PROXY, HTTPS_PROXY)")
        return
    names = " and ".join(_shown(*place) for place in places)
    yield Finding(NAME, Mark.OK, f"{names} accepts connections; whether it takes spans was not tried")


def _urls(settings: Settings) -> set[str]:
    """The addresses that spans and metrics are sent to."""
    base = settings.otel_exporter_otlp_endpoint
    traces, metrics = settings.otel_exporter_otlp_traces_endpoint, settings.otel_exporter_otlp_metrics_endpoint
    return {traces or base, metrics or base} - {""}


def _needs_proxy(url: str) -> bool:
    """Whether the exporter, which uses requests, sends through a proxy."""
    return select_proxy(url, get_environ_proxies(url)) is not None


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
