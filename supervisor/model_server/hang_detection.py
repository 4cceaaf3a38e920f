"""When the local model server hangs: it shows no sign of life, or its engine makes no progress. Pure."""

from __future__ import annotations

from supervisor.model_server.limits import Limits


class SignsOfLife:
    """When a process last showed that it works.

    Strong signs are an answer, output and tokens. Weak signs are CPU time, and a 503 while it loads: they count for
    longer silences only (Limits.limit_s and start_limit_s).
    """

    def __init__(self, limits: Limits, now: float) -> None:
        """Start to wait for signs of a process that was spawned now."""
        self._limits = limits
        self._strong_at = self._weak_at = self._cpu_at = now
        self._output_bytes, self._cpu_s = 0, 0.0

    def strong(self, now: float) -> None:
        """It answered, or tokens came."""
        self._strong_at = now

    def weak(self, now: float) -> None:
        """It answered that it is not ready."""
        self._weak_at = now

    def output(self, now: float, output_bytes: int) -> None:
        """It has written so many bytes since its start."""
        if output_bytes > self._output_bytes:
            self._strong_at = now
        self._output_bytes = output_bytes

    def cpu(self, now: float, cpu_s: float) -> None:
        """It has used so many seconds of CPU time since its start."""
        if cpu_s - self._cpu_s > self._limits.working_cpus * (now - self._cpu_at):
            self._weak_at = now
        self._cpu_s, self._cpu_at = cpu_s, now

    def silence_too_long(self, now: float, is_ready: bool) -> float | None:
        """Return for how many seconds there was no strong sign, if that means that the process hangs; else None."""
        limits = self._limits
        silence_s, limit_s = (
            (limits.silence_s, limits.limit_s) if is_ready else (limits.start_silence_s, limits.start_limit_s)
        )
        quiet_s = now - self._strong_at
        if quiet_s <= limit_s and now - max(self._strong_at, self._weak_at) <= silence_s:
            return None
        return quiet_s


class EngineProgress:
    """Whether a server's engine gets on with its requests. /health does not show that: another thread answers it."""

    def __init__(self, limits: Limits, now: float) -> None:
        """Start with a server that was spawned now."""
        self._limits = limits
        self._progress_at = self._cpu_at = self._gpu_at = now
        self._cpu_s = 0.0
        self._slots = ""

    def tokens_came(self, now: float) -> None:
        """Tokens came from it."""
        self._progress_at = now

    def gpu(self, now: float, percent: float) -> None:
        """A GPU of the machine had this load. It counts for a while only: a GPU that hangs may show 100 %, too."""
        if percent >= self._limits.engine_gpu_percent:
            self._gpu_at = now

    def idle(self, now: float) -> None:
        """It has no request at work, so that nothing can be stuck."""
        self._progress_at = now

    def busy(self, now: float, cpu_s: float, slots: str) -> None:
        """It has requests at work.

        Args:
            now: monotonic.
            cpu_s: seconds of CPU time that it has used since its start.
            slots: what /slots shows, in any form that changes with it; "": nothing.
        """
        if cpu_s - self._cpu_s > self._limits.engine_cpus * (now - self._cpu_at) or slots != self._slots:
            self._progress_at = now
        self._cpu_s, self._cpu_at, self._slots = cpu_s, now, slots

    def stuck_for(self, now: float) -> float | None:
        """Return for how many seconds there was no progress, if that means that the engine is stuck; else None."""
        quiet_s = now - self._progress_at
        is_gpu_at_work = now <= self._gpu_at + self._limits.stuck_s and quiet_s <= self._limits.limit_s
        return quiet_s if quiet_s > self._limits.stuck_s and not is_gpu_at_work else None
