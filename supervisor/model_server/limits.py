"""How long the supervisor waits for the local model server, and how often it restarts it. Pure."""

from __future__ import annotations

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
    # Ready, with requests at work: no token, no change in /slots, next to no CPU time and no load of a GPU for so long:
    # it is stuck. A long prompt on a slow machine is not: it uses the CPU or a GPU. A GPU's load alone counts for
    # limit_s.
    stuck_s: float = 120.0
    engine_cpus: float = 0.005  # processors in use, at least, by an engine that works
    engine_gpu_percent: float = 5.0  # load of a GPU, at least, that an engine works on
    probe_starting_s: float = 0.25
    probe_ready_s: float = 5.0
    probe_timeout_s: float = 5.0  # /health is answered beside the model's work, but a busy machine can be slow
    working_cpus: float = 0.02  # processors in use, at least, for CPU time to count as a sign of life


DEFAULT = Limits()
