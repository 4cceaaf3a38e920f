"""When the local model server is started again after it exited, and when it is given up and reported. Pure."""

from __future__ import annotations

from collections import deque

from supervisor.model_server.limits import Limits


class Restarts:
    """When to spawn the server again after it exited, and when to give up and report."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._exits: deque[float] = deque(maxlen=limits.exits)
        self._pause_s = limits.pause_first_s
        self._has_given_up = False  # since it was READY last

    def exited(self, now: float, ready_s: float) -> tuple[float, bool]:
        """Count an exit.

        Args:
            now: monotonic.
            ready_s: how long the server had been READY; 0: it was not.

        Returns:
            The pause before the next start, in seconds; and True if it exited too often.
        """
        limits = self._limits
        if ready_s >= limits.steady_s:
            self._pause_s = limits.pause_first_s
        self._exits.append(now)
        is_often = len(self._exits) == limits.exits and now - self._exits[0] <= limits.window_s
        if is_often or self._has_given_up:
            self._has_given_up = True
            return limits.pause_failed_s, True
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, limits.pause_longest_s)
        return pause_s, False

    def became_ready(self) -> None:
        """The server answers: the next exits are counted as those of a server that works."""
        self._has_given_up = False
