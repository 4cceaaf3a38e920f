"""How patient the supervisor is with the local model server: restarts, grace period, silence. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """All times in seconds."""

    # So many exits in so long, and it is FAILED. Five with the pauses below take about 15 s if it exits at once.
    exits: int = 5
    window_s: float = 600.0
    # The pause before the next start doubles with each exit. It is the first again once the server was READY so long.
    pause_first_s: float = 1.0
    pause_longest_s: float = 30.0
    steady_s: float = 60.0
    pause_failed_s: float = 120.0  # a file that was mended is tried after so long at most
    grace_s: float = 10.0  # between SIGTERM and SIGKILL; a server that works on a long prompt needs some seconds
    # Starting: a download, or a load of a hundred gigabytes, takes its time, but shows in its output or its CPU time.
    start_silence_s: float = 300.0  # neither output nor CPU time nor a 503 for so long: it hangs
    start_limit_s: float = 7200.0  # no output for so long, whatever else it does
    # Ready: /health waits only where all HTTP threads are taken by long requests. Then there are tokens or CPU time.
    silence_s: float = 45.0  # neither answer nor output nor tokens nor CPU time for so long: it hangs
    limit_s: float = 600.0  # no answer, output or token for so long, whatever its CPU does
    # Ready, with requests at work: no token, no change in /slots and next to no CPU time for so long: it is stuck.
    # A long prompt on a slow machine is not: it uses the CPU, or the processor that drives the GPU.
    stuck_s: float = 120.0
    engine_cpus: float = 0.005  # processors in use, at least, by an engine that works
    probe_starting_s: float = 0.25
    probe_ready_s: float = 5.0
    probe_timeout_s: float = 5.0  # /health is answered beside the model's work, but a busy machine can be slow
    working_cpus: float = 0.02  # processors in use, at least, for CPU time to count as a sign of life


DEFAULT = Limits()


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
        self._progress_at = self._cpu_at = now
        self._cpu_s = 0.0
        self._slots = ""

    def tokens_came(self, now: float) -> None:
        """Tokens came from it."""
        self._progress_at = now

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
        return quiet_s if quiet_s > self._limits.stuck_s else None
