"""Stand-ins for the parts of a node that decide nothing here: page, probes, metrics, reports, local model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.model_server.sleep import Idleness
from supervisor.states import NodeState
from tests.simulation.world import Violation
from workernode.protocol import Target

if TYPE_CHECKING:
    from tests.simulation.node import SimNode


class Count:
    """Stands in for metrics: any call is counted by its name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def count(*_: object, **__: object) -> None:
            self.calls[name] += 1

        setattr(self, name, count)
        return count


class SimOverview:
    """Stands in for the page, probes and metrics."""

    def __init__(self) -> None:
        self.metrics = Count()
        self.why: list[str] = []

    def next_update(self) -> float:
        """No update is due by itself."""
        return float("inf")

    def update(self, now: float, state: NodeState, why: list[str], *_: object) -> None:
        """Keep why the node is not ready."""
        self.why = why

    def note_report(self, *_: object) -> None:
        """Nothing to do: nobody reads the page."""

    def stopping(self, seconds: float) -> None:
        """Nothing to do: nobody probes."""


class SimReporter:
    """Stands in for Kubernetes events."""

    def __init__(self) -> None:
        self.open: set[str] = set()

    def begin(self, key: str, reason: str, message: str) -> None:
        """A report begins."""
        if key in self.open:
            raise Violation("a failure is reported once", key)
        self.open.add(key)

    def end(self, key: str) -> None:
        """A report ends."""
        self.open.remove(key)

    def close(self, timeout: float) -> None:
        """Nothing is pending."""


class SimLocalModel:
    """A local model that loads for a while, and may sleep (supervisor.model_server.local_model.LocalModel)."""

    target = Target("http://local", None)

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self.is_stopped = self._told = False
        self.is_asleep = self._is_waking = False
        self._was_seen = False  # that it is ready; `tick` notes it, as the real one does
        self.loads_for = node.world.dice.choice((0.2, 3.0, 8.0))
        self.ready_at = node.world.now + self.loads_for
        self._idleness = Idleness(node.dice.choice((0.0, 0.3, 2.0)))

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        is_seen = self._was_seen or not self._node.is_wide
        return is_seen and self._node.world.now >= self.ready_at and not self.is_stopped and not self.is_asleep

    def request(self, now: float) -> bool:
        """A task wakes it, and waits until it is ready."""
        if self.is_asleep:
            self.is_asleep, self._is_waking, self.ready_at = False, True, now + self.loads_for
        return self.is_ready or not self._is_waking

    def start(self, now: float) -> None:
        """It loads from its making on."""

    def tick(self, now: float, tasks: int) -> None:
        """Report the slots when it is ready; stop it when it is idle."""
        self._was_seen = now >= self.ready_at
        self._is_waking = self._is_waking and not self.is_ready
        if self.is_ready and self._idleness.note(now, tasks):
            self._idleness.restart()
            self.is_asleep = True
        if self.is_ready and not self._told:
            self._told = True
            self._node.concurrency.set_slots(2)

    def note_in_flight(self, tasks: int) -> None:
        """Nothing to do: no rule uses it."""

    def note_gpu_load(self, now: float, percent: float) -> None:
        """Nothing depends on it."""

    def tokens_came(self, now: float) -> None:
        """Nothing to do: a simulated model does not hang."""

    def next_tick(self) -> float:
        """When it is ready, or falls asleep."""
        return self.ready_at if self.ready_at > self._node.world.now else self._idleness.ends_at

    def why_not_ready(self) -> str:
        """The reason for people."""
        return "it loads"

    def load(self, seconds: float) -> None:
        """It is started again."""
        self.ready_at = max(self.ready_at, self._node.world.now + seconds)
        self._was_seen = False
        self._node.wake()

    def stop(self, now: float) -> None:
        """It stops a moment later."""
        self._node.world.after(0.3, self.kill)

    def kill(self) -> None:
        """The model is stopped at once."""
        self.is_stopped = True
        self._node.wake()
