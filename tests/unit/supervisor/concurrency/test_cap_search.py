"""Where the cap goes by tokens per second, and how often it moves, in a closed loop with a computed box."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from supervisor.concurrency.cap import Cap
from tests.unit.supervisor.concurrency.box import MEASURED, Box, Curve, best_fixed

GPU = {1: 41.0, 8: 250.0, 16: 380.0, 32: 465.0}
SEEDS = range(2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ceiling", [1, 2, 4, 8, 16])
def test_it_finds_the_best_level_within_a_minute_and_a_half(ceiling: int, seed: int) -> None:
    box, cap = Box(MEASURED, seed=seed), Cap(ceiling, cpu_high=95, memory_high=90)
    box.run(cap, 90)
    box.run(cap, 240)
    assert box.mean_rate(240) >= 0.95 * best_fixed(MEASURED, ceiling, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_moves_less_than_once_in_three_minutes_for_the_rest_of_an_hour(seed: int) -> None:
    box, cap = Box(MEASURED, seed=seed), Cap(16, cpu_high=95, memory_high=90)
    box.run(cap, 3600)
    assert box.mean_rate(3540) >= 0.95 * best_fixed(MEASURED, 16, seed)
    assert box.moves_since(1060) < 20


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("curve", "share"),
    [
        pytest.param({1: 10.6, 2: 12.1, 4: 12.7, 8: 12.5}, 0.9, id="flat: a 7B model on a CPU"),
        pytest.param(GPU, 0.9, id="rising: a GPU"),
        pytest.param({1: 20.0, 2: 20.0, 4: 17.0, 8: 12.0}, 0.9, id="falling: memory bandwidth"),
        pytest.param({1: 20.0, 2: 36.0, 4: 60.0, 8: 20.0, 16: 15.0}, 0.9, id="a cliff: caches thrash"),
        pytest.param({1: 30.0, 2: 28.0, 4: 40.0, 8: 38.0, 16: 55.0}, 0.9, id="a wave"),
    ],
)
def test_it_comes_near_the_best_level_on_any_usual_curve(curve: Curve, share: float, seed: int) -> None:
    ceiling = max(curve)
    box, cap = Box(curve, seed=seed), Cap(ceiling, cpu_high=95, memory_high=90)
    box.run(cap, 200)
    box.run(cap, 400)
    assert box.mean_rate(400) >= share * best_fixed(curve, ceiling, seed)
    assert box.moves_since(1200) <= 6


@pytest.mark.parametrize(
    ("what", "values"),
    [
        pytest.param("answer_tokens", [(5, 400)], id="answers of all lengths"),
        pytest.param("answer_tokens", [(5, 20), (50, 100), (200, 800)], id="short and long answers by turns"),
        pytest.param("demand", [1, 3, 6, 9, 20, 100], id="few and many clients by turns"),
        pytest.param("slow", [0.4, 0.7, 1.0, 1.0], id="another user of the machine now and then"),
    ],
)
def test_a_load_that_changes_does_not_make_it_swing(what: str, values: Sequence[object]) -> None:
    def run(cap: Cap, seed: int) -> Box:
        box, turns = Box(MEASURED, seed=seed), random.Random(seed)
        for _ in range(40):
            setattr(box, what, turns.choice(values))
            box.run(cap, 30)
        return box

    fixed = sum(run(Cap(8, cpu_high=100, memory_high=100), seed).mean_rate(1140) for seed in SEEDS)
    dynamic = [run(Cap(8, cpu_high=95, memory_high=90), seed) for seed in SEEDS]
    assert sum(box.mean_rate(1140) for box in dynamic) >= 0.93 * fixed
    assert all(box.moves_since(1060) < 19 for box in dynamic)  # one a minute


@pytest.mark.parametrize("seed", SEEDS)
def test_another_user_who_comes_and_goes_within_seconds_does_not_lower_it_for_long(seed: int) -> None:
    """As on a machine on which several people build: for seconds the model server gets next to nothing."""

    def run(cap: Cap) -> Box:
        box, turns = Box(MEASURED, seed=seed), random.Random(seed)
        for _ in range(200):
            box.slow = turns.choice([0.05, 0.2, 0.6, 1.0, 1.0])
            box.run(cap, turns.randint(2, 10))
        return box

    fixed, dynamic = run(Cap(8, 100, 100)), run(Cap(8, cpu_high=95, memory_high=90))
    assert dynamic.mean_rate(1000) >= 0.88 * fixed.mean_rate(1000)
    assert dynamic.moves_since(1060) <= 12


def test_a_full_cpu_alone_never_lowers_it() -> None:
    """Fewer tasks give less, at every level: it tries that and goes back."""
    box, cap = Box({1: 10.0, 2: 19.0, 4: 36.0, 8: 68.0}), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 300)
    assert [change.code for _, change in box.changes] == ["fewer", "best"]
    assert cap.value == 8


def test_the_time_before_the_first_token_does_not_count_for_the_level() -> None:
    """A slow machine reads the first prompts for seconds. What the ceiling gives is measured without them."""
    curve = {1: 27.0, 2: 36.0, 4: 39.0, 8: 45.0}
    box, cap = Box(curve, prefill_s=3.6, noise=0.01), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 4)
    box.prefill_s = 0.3  # what the prompts have in common is in the cache now
    box.run(cap, 90)
    assert cap.value == 8


def test_a_full_cpu_lowers_it_where_fewer_tasks_give_as_much() -> None:
    box, cap = Box({1: 12.0, 2: 24.0, 4: 24.0, 8: 24.0}), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 120)
    assert 2 <= cap.value <= 4
    assert box.mean_rate(60) >= 0.93 * best_fixed(box.curve, 8)


def test_with_a_free_cpu_it_stays_at_the_ceiling() -> None:
    box, cap = Box(GPU, cpu=lambda in_flight: 30.0), Cap(32, cpu_high=95, memory_high=90)
    box.run(cap, 600)
    assert box.changes == []


def test_a_remote_node_gives_way_when_its_own_cpu_is_full() -> None:
    """More than 64 tasks gain nothing and fill the CPU; with fewer it is free. The cap must not swing."""
    curve = {1: 5.0, 64: 300.0, 128: 300.0}
    box = Box(curve, cpu=lambda in_flight: min(100.0, 1.3 * in_flight), answer_tokens=(20, 60))
    cap = Cap(128, cpu_high=95, memory_high=90)
    box.run(cap, 240)
    assert cap.value == 64
    box.run(cap, 900)
    assert box.moves_since(1240) <= 8
    assert box.mean_rate(900) >= 0.95 * 285


@pytest.mark.parametrize("shape", ["all levels slower", "all levels the same"])
def test_a_minute_after_another_user_left_the_machine_it_is_back(shape: str) -> None:
    box, cap = Box(MEASURED), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 120)
    if shape == "all levels slower":
        box.slow = 0.3
    else:
        box.curve = dict.fromkeys(MEASURED, 25.0)
    box.run(cap, 90)
    box.slow, box.curve = 1.0, MEASURED
    box.run(cap, 60)
    box.run(cap, 60)
    assert box.mean_rate(60) >= 0.9 * best_fixed(MEASURED, 8)


def test_it_stays_while_no_task_waits() -> None:
    box, cap = Box(MEASURED, demand=5), Cap(8, cpu_high=95, memory_high=90)
    box.run(cap, 600)
    assert box.changes == []


def test_a_level_that_is_being_tried_is_left_when_the_tasks_run_out() -> None:
    box, cap = Box(MEASURED), Cap(8, cpu_high=95, memory_high=90)
    while not box.changes:
        box.run(cap, 1)
    assert cap.value == 4
    box.demand = 2
    box.run(cap, 60)
    assert cap.value == 8


@pytest.mark.parametrize("ceiling", [8, 16])
def test_tokens_that_are_counted_late_lead_to_the_same_level(ceiling: int) -> None:
    """Only whole answers are counted: it takes longer, that is all."""
    box, cap = Box(MEASURED, whole_answers=True), Cap(ceiling, cpu_high=95, memory_high=90)
    box.run(cap, 240)
    assert cap.value == 8
