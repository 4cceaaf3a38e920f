"""What the overview reads of the node's other parts. Protocols: this package imports none of those parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.machine import Resources
from supervisor.states import FitnessState, ModelServerState


class Tasks(Protocol):
    """The dispatcher. Its length is the number of messages in flight: taken, and neither acked nor nak'd yet."""

    def __len__(self) -> int: ...

    @property
    def unrecorded(self) -> int:
        """Tasks that are decided and whose record is not stored yet."""


class Workers(Protocol):
    """The pool of worker processes."""

    def ready(self) -> int:
        """Worker processes that take tasks."""

    def slots(self) -> int:
        """Slots of those processes."""

    def tokens(self) -> float:
        """Tokens that came from upstream since the start, counted as they come."""


class Broker(Protocol):
    """The Pulsar client."""

    @property
    def held_naks(self) -> int:
        """Nak'd messages that stay at this node until their delay is over."""


class Limit(Protocol):
    """The dynamic concurrency limit."""

    resources: Resources  # the newest readings of the machine

    @property
    def cap(self) -> int:
        """The most tasks that may be in flight."""

    @property
    def code(self) -> str:
        """Why: a key of supervisor.states.CAP_REASONS."""

    @property
    def why(self) -> str:
        """Why, in words."""


class FitnessStatus(Protocol):
    """What fitness expects to happen. Moments are monotonic seconds; None: nothing is due."""

    @property
    def reason(self) -> str:
        """Why the node is not fit, a sentence; "" when it is."""

    @property
    def hold_until(self) -> float | None:
        """When the rate limit of upstream lifts."""

    @property
    def next_probe_at(self) -> float | None:
        """When the next task is tried upstream."""


class Fitness(Protocol):
    """Whether upstream lets the node serve."""

    @property
    def state(self) -> FitnessState:
        """The state that the node is in."""

    @property
    def cap(self) -> int:
        """The most tasks that may be in flight, by upstream's rate limit."""

    def status(self, now: float) -> FitnessStatus:
        """Return why the node may not serve, and when that is tried again."""


class ModelServer(Protocol):
    """The local model server."""

    state: ModelServerState

    def tail(self) -> Sequence[str]:
        """The last lines of its output, oldest first."""

    def next_wakeup(self) -> float | None:
        """Monotonic time at which it is started again or checked."""


@dataclass
class Sources:
    """All parts that the overview reads. A local node sets `model_server` once it has one."""

    tasks: Tasks
    workers: Workers
    broker: Broker
    limit: Limit
    fitness: Fitness
    model_server: ModelServer | None = None
