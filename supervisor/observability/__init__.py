"""What the node shows of itself: the status server with its page, metrics for Prometheus, and messages to systemd."""

from supervisor.observability.overview import Overview
from supervisor.observability.snapshot import NodeInfo
from supervisor.observability.sources import Sources

__all__ = ["NodeInfo", "Overview", "Sources"]
