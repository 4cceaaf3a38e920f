"""The long runs, small. `python -m tests.faults.soak` has them in full size."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.soak import mix, taken_over
from tests.faults.testbed import Testbed


def test_every_fault_at_once_and_a_worker_killed_every_two_seconds(build: Callable[..., Testbed]) -> None:
    counted = mix(build(), tasks=150, seed=4, kill_every=2.0)
    print(counted.figures)
    counted.check()


def test_a_second_node_takes_over_when_the_first_is_killed(build: Callable[..., Testbed]) -> None:
    counted = taken_over(build(), tasks=150)
    print(counted.figures)
    counted.check()
