"""Lowers the cap while requests wait inside the engine behind upstream, and gives back what it took. Pure.

A request that waits there gains nothing: in the broker another node could take it, and autoscaling would count it.
"""

from __future__ import annotations

from supervisor.concurrency.sample import Move, Sample

PATIENCE_S = 10.0  # requests must have waited for so long, at two readings (every 5 s): a short queue keeps it busy
SHARE = 0.7  # of the tasks in flight that remain at least: other nodes may use the engine, and lower theirs, too
CALM_S = 15.0  # without a queue before the cap is raised, and between two raises
STEP = 8  # a raise adds an eighth


class QueueBrake:
    """Decides about the cap from the moment the engine has a queue until the cap is where it was before."""

    def __init__(self) -> None:
        self._goal: int | None = None  # how far the cap is raised again; None: it was not lowered
        self._waits_since: float | None = None
        self._calm_since = float("-inf")

    @property
    def is_active(self) -> bool:
        """True while the engine's queue decides about the cap."""
        return self._goal is not None or self._waits_since is not None

    def reset(self) -> None:
        """The cap was moved by somebody else."""
        self._goal = self._waits_since = None

    def observe(self, sample: Sample, level: int) -> Move | None:
        """Take in one sample; return where the cap, now at `level`, should be; None: where it is."""
        if sample.waiting > 0:
            self._calm_since = sample.at
            self._waits_since = sample.at if self._waits_since is None else self._waits_since
            return self._lower(sample, level) if sample.at - self._waits_since >= PATIENCE_S else None
        self._waits_since = None
        if self._goal is None:
            return None
        if level >= self._goal:
            self._goal = None
            return None
        if not sample.is_full or sample.at - self._calm_since < CALM_S:
            return None
        self._calm_since = sample.at
        return Move(min(level + max(1, level // STEP), self._goal), "queue_free", "no request waits in the engine")

    def _lower(self, sample: Sample, level: int) -> Move | None:
        lower = max(1, sample.in_flight - sample.waiting, int(SHARE * sample.in_flight))
        if sample.in_flight > level or lower >= level:  # tasks of the higher level still end; or the queue is others'
            return None
        self._goal = self._goal or level
        self._waits_since = sample.at
        return Move(lower, "queue", f"{sample.waiting} requests wait in the engine, with {sample.in_flight} in flight")
