"""Upstream's address and the way to it (proxy, TLS), by the settings; the same for worker and `--check`. Pure."""

from __future__ import annotations

from workernode.protocol import Target
from workernode.settings import Settings


def upstream_target(settings: Settings) -> Target:
    """Return the target of a remote node."""
    headers, proxy, ca = settings.upstream_headers, settings.upstream_proxy, settings.upstream_ca
    return Target(settings.api_url, settings.api_key, headers, proxy, ca)
