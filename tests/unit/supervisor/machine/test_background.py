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
    may_read, is_reading, never = threading.Event(), threading.Event(), threading.Event()

    def read() -> Resources:
        if may_read.is_set():
            is_reading.set()
            never.wait()
        return reading(0)

    sampler = BackgroundSampler(1.0, read, lambda _: may_read.wait() and None)
    may_read.set()
    assert is_reading.wait(10)
    assert sampler.latest() == reading(0)
