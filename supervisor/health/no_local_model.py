"""What stands in the place of a local model at a remote node. Pure."""

from __future__ import annotations


class NoLocalModel:
    """What a remote node has instead of a supervisor.model_server.LocalModel: nothing to wait for."""

    is_ready = is_stopped = True
    is_asleep = False

    def request(self, now: float) -> bool:
        """No task waits for it."""
        return True

    def tick(self, now: float, tasks: int) -> None:
        """Nothing happens to it."""

    def next_tick(self) -> float:
        """Never."""
        return float("inf")

    def note_in_flight(self, tasks: int) -> None:
        """Nothing depends on it."""

    def note_gpu_load(self, now: float, percent: float) -> None:
        """Nothing depends on it."""

    def tokens_came(self, now: float) -> None:
        """Nothing depends on it."""

    def why_not_ready(self) -> str:
        """Return no reason."""
        return ""

    def stop(self, now: float) -> None:
        """There is nothing to stop."""

    def kill(self) -> None:
        """There is nothing to kill."""
