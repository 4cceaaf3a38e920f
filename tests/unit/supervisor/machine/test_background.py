"""The machine is read on a thread of its own."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from supervisor.machine import BackgroundSampler, Resources
from tests.support.wait import until


def reading(at: float) -> Resources:
    return Resources(at, 1.0, 2.0, 3.0, 4, 5, "host")


def test_the_newest_reading_is_returned() -> None:
    ticks: SimpleQueue[float] = SimpleQueue()
    moments = iter(range(100))
    sampler = BackgroundSampler(1.0, lambda: reading(next(moments)), lambda _: ticks.get())  # type: ignore[arg-type,return-value]
    assert sampler.latest() == reading(0)
    ticks.put(1.0)
    until(lambda: sampler.latest() == reading(1), 10, "second reading")


def test_a_reading_that_blocks_blocks_nobody_else() -> None:
    """As a file of a cgroup on a machine that is out of memory."""
    is_reading, may_end = threading.Event(), threading.Event()

    def read() -> Resources:
        if is_reading.is_set() or sampler is None:
            return reading(0)
        is_reading.set()
        may_end.wait()
        return reading(1)

    sampler: BackgroundSampler | None = None
    sampler = BackgroundSampler(1.0, read, lambda _: None)
    assert is_reading.wait(10)
    assert sampler.latest() == reading(0)
    may_end.set()
