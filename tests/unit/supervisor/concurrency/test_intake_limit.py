"""How many more messages may be taken, by what is here already."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from supervisor.concurrency.intake_limit import free_below_cap
from supervisor.states import Intake

CAP = 4


@dataclass
class Tasks:
    """The messages at a node."""

    all: int = 0
    running: int = 0
    unrecorded: int = 0
    beyond_cap: int = 0

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
