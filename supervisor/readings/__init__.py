"""Readings that several packages use: of a GPU, and of the queue of an engine. Leaves, without I/O."""

from supervisor.readings.engine_metrics import waiting_requests
from supervisor.readings.gpu import Gpu

__all__ = ["Gpu", "waiting_requests"]
