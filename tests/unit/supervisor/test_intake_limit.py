"""How many more messages may be taken, by what is here already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from supervisor.fitness import Gate
from supervisor.intake_limit import IntakeLimit, free_below_cap
from supervisor.states import Intake

CAP = 4


@dataclass
class Tasks:
    """The messages at a node."""

    all: int = 0
    running: int = 0
    unrecorded: int = 0
    beyond_cap: int = 0
    queued: int = 0

    def __len__(self) -> int:
        return self.all


@pytest.mark.parametrize(
    ("tasks", "free"),
    [
        pytest.param(Tasks(), 4, id="nothing is here"),
        pytest.param(Tasks(3, running=3), 1, id="three of four run"),
        pytest.param(Tasks(4, running=4), 0, id="as many run as may"),
        pytest.param(Tasks(6, running=6), -2, id="the cap has fallen"),
        pytest.param(Tasks(4, running=1, unrecorded=3), 1, id="one may come for those whose records are on their way"),
        pytest.param(Tasks(9, running=4, beyond_cap=5), 0, id="what waits for a gateway does not count"),
    ],
)
def test_at_most_the_cap_is_in_flight(tasks: Tasks, free: int) -> None:
    assert free_below_cap(tasks, CAP, Intake.OPEN) == free


def test_half_open_one_task_is_taken_beside_those_that_run() -> None:
    assert free_below_cap(Tasks(), CAP, Intake.ONE_AT_A_TIME) == 1
    assert free_below_cap(Tasks(2, running=2), CAP, Intake.ONE_AT_A_TIME) == 1
    assert free_below_cap(Tasks(2, running=1), CAP, Intake.ONE_AT_A_TIME) == 0
    assert free_below_cap(Tasks(4, running=4), CAP, Intake.ONE_AT_A_TIME) == 0


class Fakes:
    """Broker, pool, concurrency, fitness in one; what the broker is asked for is noted."""

    def __init__(self, gate: Gate, tasks: Tasks, cap: int = CAP, slots: int = 8) -> None:
        self.given, self.cap, self.slots = gate, cap, slots
        self.calls: list[Any] = []
        fake: Any = self
        self.limit = IntakeLimit(fake, fake, fake, fake, tasks, 1.0)

    def set(self, *, takes_tasks: bool = True, is_model_asleep: bool = False) -> list[Any]:
        self.limit.set(1.0, takes_tasks=takes_tasks, is_model_asleep=is_model_asleep)
        return self.calls

    def allow(self, count: int) -> None:
        self.calls.append(count)

    def close_intake(self, is_empty: bool) -> None:
        self.calls.append("closed, empty" if is_empty else "closed")

    def free_slots(self) -> int:
        return self.slots

    def was_full(self) -> None:
        self.calls.append("full")

    def gate(self, now: float) -> Gate:
        return self.given


OPEN = Gate(Intake.OPEN, 1000, 1.0)


def test_the_lowest_of_cap_pacing_and_free_slots_is_asked_for() -> None:
    assert Fakes(OPEN, Tasks(1, running=1)).set() == [3]
    assert Fakes(Gate(Intake.OPEN, 2, 9.0), Tasks()).set() == [2]
    assert Fakes(OPEN, Tasks(2, queued=2), slots=3).set() == [1]


def test_one_task_wakes_a_model_that_sleeps() -> None:
    assert Fakes(OPEN, Tasks()).set(is_model_asleep=True) == [1]


def test_nothing_is_asked_for_while_fitness_or_node_take_no_tasks() -> None:
    assert Fakes(Gate(Intake.HOLD, 0, 9.0), Tasks(1, running=1)).set() == ["closed"]
    assert Fakes(OPEN, Tasks()).set(takes_tasks=False) == ["closed, empty"]


def test_the_concurrency_limit_learns_that_it_was_reached_even_if_pacing_is_too() -> None:
    assert Fakes(OPEN, Tasks(4, running=4)).set() == ["full", 0]
    assert Fakes(Gate(Intake.OPEN, 0, 9.0), Tasks(4, running=4)).set() == ["full", "closed"]


def test_a_gate_that_lets_nothing_in_is_asked_again_when_it_says_so() -> None:
    closed, opened = Fakes(Gate(Intake.OPEN, 0, 9.0), Tasks()), Fakes(OPEN, Tasks())
    assert closed.limit.next_due() == 9.0
    assert opened.limit.next_due() == float("inf")
