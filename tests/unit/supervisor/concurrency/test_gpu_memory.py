"""When a GPU's memory counts as short: only while its use grows after the model has started."""

from __future__ import annotations

from supervisor.concurrency.gpu_memory import GROWS_S, SETTLE_S, GpuMemory
from supervisor.readings import Gpu

READY_AT = 100.0
SETTLED_AT = READY_AT + SETTLE_S


def gpu(percent: float, number: str = "0") -> Gpu:
    return Gpu(number, "card", int(percent * 1000), 100_000)


def ready(percent: float) -> GpuMemory:
    """A card of which the model has taken so much."""
    memory = GpuMemory()
    memory.observe(READY_AT - 5, [gpu(1.0)])
    memory.model_ready(READY_AT)
    memory.observe(READY_AT + 1, [gpu(percent - 10)])
    memory.observe(SETTLED_AT, [gpu(percent)])
    return memory


def test_what_the_model_takes_when_it_starts_is_no_shortage() -> None:
    memory = ready(97.0)
    for second in range(1, 600):
        assert memory.observe(SETTLED_AT + second, [gpu(97.0 + second % 2 / 2)]) == (0.0, "")


def test_what_the_tasks_take_counts_while_it_grows_and_no_longer() -> None:
    memory = ready(80.0)
    assert memory.observe(SETTLED_AT + 100, [gpu(93.0)]) == (93.0, "0")
    assert memory.observe(SETTLED_AT + 100 + GROWS_S - 1, [gpu(93.5)]) == (93.5, "0")
    assert memory.observe(SETTLED_AT + 100 + GROWS_S, [gpu(93.5)]) == (0.0, "")
    assert memory.observe(SETTLED_AT + 300, [gpu(95.0)]) == (95.0, "0")


def test_memory_that_was_freed_and_is_taken_again_has_grown() -> None:
    memory = ready(95.0)
    assert memory.observe(SETTLED_AT + 1, [gpu(60.0)]) == (0.0, "")
    assert memory.observe(SETTLED_AT + 2, [gpu(94.0)]) == (94.0, "0")


def test_a_model_that_starts_again_begins_anew() -> None:
    memory = ready(80.0)
    memory.observe(SETTLED_AT + 50, [gpu(20.0)])
    assert memory.observe(SETTLED_AT + 60, [gpu(95.0)]) == (95.0, "0")  # it loads
    memory.model_ready(SETTLED_AT + 61)
    assert memory.observe(SETTLED_AT + 62, [gpu(95.0)]) == (0.0, "")


def test_of_several_cards_the_fullest_that_grows_counts() -> None:
    memory = GpuMemory()
    memory.model_ready(READY_AT)
    memory.observe(SETTLED_AT, [gpu(99.0, "0"), gpu(50.0, "1"), gpu(50.0, "2")])
    assert memory.observe(SETTLED_AT + 1, [gpu(99.0, "0"), gpu(91.0, "1"), gpu(70.0, "2")]) == (91.0, "1")


def test_without_a_gpu_nothing_counts() -> None:
    assert GpuMemory().observe(READY_AT, ()) == (0.0, "")
