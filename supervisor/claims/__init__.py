"""Claims of tasks in a topic that all nodes of a model share: what the broker hands out twice is answered once."""

from supervisor.claims.claims import Claims
from supervisor.claims.look_ups import Finding, Found

__all__ = ["Claims", "Finding", "Found"]
