"""When a local model server that has no task is stopped: it sleeps until the next task (LOCAL_IDLE_STOP). Pure."""

from __future__ import annotations


class Idleness:
    """When a server that has no task is stopped (LOCAL_IDLE_STOP)."""

    def __init__(self, limit_s: float) -> None:
        """Start with a server that is in use.

        Args:
            limit_s: for how long it must have had no task; 0: it is never stopped.
        """
        self._limit_s = limit_s or float("inf")
        self.ends_at = float("inf")  # monotonic time at which it is stopped if no task comes

    def note(self, now: float, tasks: int) -> bool:
        """Take in how many tasks the node has; return True if the server has had none for so long."""
        if tasks:
            self.ends_at = float("inf")
        elif self.ends_at == float("inf"):
            self.ends_at = now + self._limit_s
        return now >= self.ends_at

    def restart(self) -> None:
        """The server takes requests from now on, or takes none: its idle time begins anew."""
        self.ends_at = float("inf")
