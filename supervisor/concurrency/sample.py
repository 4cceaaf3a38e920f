"""What the rules of the cap are given, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of the node, taken every SAMPLE_INTERVAL."""

    at: float  # monotonic, seconds
    cpu_percent: float
    memory_percent: float
    in_flight: int  # tasks at workers
    is_full: bool  # since the last sample, a task could have been taken but for the cap
    tokens_per_s: float  # over the time since the last sample
    memory_of: str = ""  # " of GPU 0", if it is not the machine's
    waiting: int = 0  # requests that wait inside the engine behind upstream
    lag_s: float = 0.0  # from making a token to counting it: a request's duration where only whole answers are counted


@dataclass(frozen=True, slots=True)
class Move:
    """Where the cap should be."""

    level: int  # tasks in flight
    code: str  # for a metric: a key of supervisor.states.CAP_REASONS
    reason: str  # for a person
