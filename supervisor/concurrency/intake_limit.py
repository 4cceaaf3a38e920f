"""How many more messages may be taken from the broker, by the cap and by what is here already. Pure."""

from __future__ import annotations

from typing import Protocol

from supervisor.states import Intake


class Tasks(Protocol):
    """The messages at this node (supervisor.dispatcher). Its length is how many are not acked or nak'd yet."""

    def __len__(self) -> int: ...

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
