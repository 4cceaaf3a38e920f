"""How many more messages may be taken from the broker: by both caps, the pacing of calls, and what is here already."""

from __future__ import annotations

from typing import Protocol

from supervisor.broker import Broker
from supervisor.concurrency import ConcurrencyController
from supervisor.fitness import FitnessStateMachine
from supervisor.states import Intake, cap_in_force
from supervisor.workers import Pool


class Tasks(Protocol):
    """The messages at this node (supervisor.dispatcher). Its length is how many are not acked or nak'd yet."""

    def __len__(self) -> int: ...

    @property
    def queued(self) -> int:
        """Those that wait for a free slot."""

    @property
    def running(self) -> int:
        """Those at workers."""

    @property
    def unrecorded(self) -> int:
        """Those that are decided and whose record is not stored yet."""

    @property
    def beyond_cap(self) -> int:
        """Those that wait for a gateway that is away."""


def free_below_cap(tasks: Tasks, cap: int, intake: Intake) -> int:
    """Return how many more messages the cap lets in; zero or less: none (spec 3, last point).

    Args:
        tasks: the messages that are here.
        cap: the most that may be in flight.
        intake: what fitness lets the intake do.
    """
    # A task whose record is on its way holds no slot: the next may come meanwhile. Only one, because at most two
    # beyond the cap may be unacknowledged (spec 3): this one, and one that was on its way when the cap fell.
    in_flight = len(tasks) - tasks.beyond_cap
    free = cap - in_flight + min(1, tasks.unrecorded)
    if intake is Intake.ONE_AT_A_TIME:  # a probe that hangs must not keep others from their error
        free = min(free, 1 - (in_flight - tasks.running))
    return free


class IntakeLimit:
    """Asks the broker for no more messages than may be taken (spec 3, last point)."""

    def __init__(
        self, broker: Broker, pool: Pool, concurrency: ConcurrencyController, fitness: FitnessStateMachine,
        tasks: Tasks, now: float,
    ) -> None:  # fmt: skip
        """Begin with nothing asked for.

        Args:
            broker: asked for messages.
            pool: its free slots are a limit.
            concurrency: gives the machine's cap.
            fitness: gives the cap of upstream's rate limit, and how many calls upstream takes now.
            tasks: the messages that are here.
            now: monotonic.
        """
        self._broker, self._pool, self._tasks = broker, pool, tasks
        self._concurrency, self._fitness = concurrency, fitness
        self._gate = fitness.gate(now)

    @property
    def intake(self) -> Intake:
        """What fitness let the intake do when the limit was set last."""
        return self._gate.intake

    def next_due(self) -> float:
        """Monotonic time at which `set` is to be called again by itself."""
        # The gate by which the intake was set. A gate asked for now may have opened since, and nobody would act on it.
        return self._gate.again_at if self._gate.allowed == 0 else float("inf")

    def set(self, now: float, *, takes_tasks: bool, is_model_asleep: bool) -> None:
        """Ask the broker for as many messages as may be taken now.

        Args:
            now: monotonic.
            takes_tasks: False: none may be taken, because the node drains or its model is not ready.
            is_model_asleep: the local model sleeps.
        """
        gate = self._gate = self._fitness.gate(now)
        if not takes_tasks or gate.intake is Intake.HOLD:
            self._close()
            return
        cap = cap_in_force(self._concurrency.cap, self._fitness.cap)
        # One task wakes a model that is asleep; the others are better off in the broker while it loads.
        free = free_below_cap(self._tasks, 1 if is_model_asleep else cap, gate.intake)
        if free <= 0:
            self._concurrency.was_full()
        if gate.allowed <= 0:  # upstream's limit is used up for a while
            self._close()
            return
        self._broker.allow(min(free, gate.allowed, self._pool.free_slots() - self._tasks.queued))

    def _close(self) -> None:
        self._broker.close_intake(is_empty=len(self._tasks) == 0)
