"""Memory that is short lowers the cap at once, and gives it back, in a closed loop with a computed box."""

from __future__ import annotations

import pytest

from supervisor.concurrency.cap import Cap
from tests.unit.supervisor.concurrency.box import MEASURED, Box, Curve


@pytest.mark.parametrize(("ceiling", "curve"), [(8, MEASURED), (128, {1: 10.0, 128: 1280.0})])
def test_memory_that_is_short_lowers_it_at_once_and_gives_it_back(ceiling: int, curve: Curve) -> None:
    box = Box(curve, cpu=lambda in_flight: 50.0)
    cap = Cap(ceiling, cpu_high=95, memory_high=90)
    box.run(cap, 90)
    box.memory = lambda in_flight: 96.0
    box.run(cap, 5)
    assert cap.value <= 0.7 * ceiling
    assert cap.code == "memory"
    box.run(cap, 55)
    assert cap.value <= 0.5 * ceiling
    box.memory = lambda in_flight: 50.0
    box.run(cap, 30)
    assert cap.value == ceiling


def test_memory_that_its_own_requests_use_up_does_not_make_it_swing() -> None:
    """There is memory for six tasks: it finds a level that fits and stays there."""
    box, cap = Box(MEASURED, memory=lambda in_flight: 60 + 4.5 * in_flight), Cap(8, 95, 90)
    box.run(cap, 60)
    box.run(cap, 1800)
    assert 4 <= cap.value <= 6
    assert box.moves_since(1060) <= 15


def test_memory_that_only_long_requests_fill_does_not_make_a_large_cap_swing() -> None:
    """There is memory for a hundred of 128 tasks, and the tasks above a lowered cap take a minute to end."""
    box, cap = Box({1: 1.0, 128: 128.0}, cpu=lambda in_flight: 30.0), Cap(128, 95, 90)
    box.memory = lambda in_flight: 30 + 0.6 * in_flight
    box.run(cap, 300)
    box.run(cap, 3300)
    assert box.moves_since(1300) <= 30
    assert 60 <= cap.value <= 110


def test_memory_that_stays_short_ends_at_one_and_not_below() -> None:
    box, cap = Box(MEASURED, memory=lambda in_flight: 99.0), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 120)
    assert cap.value == 1


def test_an_idle_node_is_lowered_too() -> None:
    box, cap = Box(MEASURED, demand=0, memory=lambda in_flight: 95.0), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 5)
    assert cap.value == 5
    box.memory = lambda in_flight: 50.0
    box.run(cap, 30)
    assert cap.value == 8


def test_memory_that_is_nearly_short_keeps_it_from_being_raised() -> None:
    box, cap = Box({1: 24.0, 8: 24.0}), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 120)
    lowered = cap.value
    assert lowered < 8
    box.memory = lambda in_flight: 88.0
    box.run(cap, 1200)
    assert max(box.caps[-1200:]) == lowered
