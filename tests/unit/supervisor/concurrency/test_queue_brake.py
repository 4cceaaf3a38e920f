"""The cap while requests wait inside the engine behind upstream."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from supervisor.concurrency.cap import Cap
from supervisor.concurrency.queue_brake import CALM_S, PATIENCE_S, QueueBrake
from supervisor.concurrency.sample import Move, Sample

FULL = Sample(0.0, 50.0, 50.0, 20, is_full=True, tokens_per_s=100.0)


def waits(at: float, waiting: int, in_flight: int = 20) -> Sample:
    return replace(FULL, at=at, waiting=waiting, in_flight=in_flight)


def test_a_short_queue_moves_nothing() -> None:
    brake = QueueBrake()
    assert brake.observe(waits(0, 5), 20) is None
    assert brake.observe(waits(PATIENCE_S - 1, 5), 20) is None
    assert brake.observe(waits(PATIENCE_S, 0), 20) is None
    assert brake.observe(waits(PATIENCE_S + 1, 5), 20) is None
    assert not QueueBrake().is_active


def test_a_queue_that_lasts_lowers_the_cap_by_as_many_as_wait() -> None:
    brake = QueueBrake()
    brake.observe(waits(0, 3), 20)
    move = brake.observe(waits(PATIENCE_S, 3), 20)
    assert move == Move(17, "queue", "3 requests wait in the engine, with 20 in flight")


def test_it_is_lowered_by_no_more_than_a_share_at_once_because_others_may_have_filled_the_queue() -> None:
    brake = QueueBrake()
    brake.observe(waits(0, 500), 20)
    move = brake.observe(waits(PATIENCE_S, 500), 20)
    assert move is not None
    assert move.level == 14
    assert brake.observe(waits(2 * PATIENCE_S, 500), 14) is None  # those above the cap still run
    move = brake.observe(waits(2 * PATIENCE_S, 500, in_flight=14), 14)
    assert move is not None
    assert move.level == 9


def test_one_task_is_always_let_through() -> None:
    brake = QueueBrake()
    brake.observe(waits(0, 9, in_flight=1), 1)
    assert brake.observe(waits(PATIENCE_S, 9, in_flight=1), 1) is None


def test_without_a_queue_the_cap_goes_up_by_steps_to_where_it_was() -> None:
    brake, level, moves = QueueBrake(), 20, []
    for second in range(400):
        move = brake.observe(waits(second, 4 if second < 25 else 0, in_flight=level), level)
        if move is not None:
            level = move.level
            moves.append((second, move.code, level))
    assert moves[:2] == [(10, "queue", 16), (20, "queue", 12)]
    assert [level for _, code, level in moves[2:] if code == "queue_free"] == [13, 14, 15, 16, 18, 20]
    assert [later[0] - before[0] for before, later in pairwise(moves[2:])] == [CALM_S] * 5
    assert (level, brake.is_active) == (20, False)


def test_a_cap_that_no_task_waits_for_is_not_raised() -> None:
    brake = QueueBrake()
    brake.observe(waits(0, 4), 20)
    brake.observe(waits(PATIENCE_S, 4), 20)
    assert brake.observe(replace(waits(100, 0, in_flight=2), is_full=False), 16) is None
    assert brake.is_active


def test_memory_comes_before_the_queue_and_the_queue_before_the_search() -> None:
    cap = Cap(20, cpu_high=95.0, memory_high=90.0)
    busy = replace(FULL, cpu_percent=100.0)
    for second in range(11):
        cap.observe(replace(busy, at=float(second), waiting=4))
    assert (cap.value, cap.code) == (16, "queue")
    cap.observe(replace(busy, at=12.0, waiting=4, memory_percent=95.0, in_flight=16))
    assert (cap.value, cap.code) == (11, "memory")
