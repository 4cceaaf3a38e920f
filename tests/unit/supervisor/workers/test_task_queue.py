"""The queue to a worker: all of it, in order, and nothing waits but its feeder."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator

import pytest

from supervisor.workers.task_queue import TaskQueue
from tests.support.wait import until
from workernode.pipe import PIECE, Unpacker
from workernode.protocol import Job, ToWorker

SMALL, LARGE = 100, 300_000  # bytes: fits a pipe at once; does not fit at all


def job(number: int, size: int) -> Job:
    return Job(number, 0, bytes([number % 256]) * size, 0.0, 0.0, 0.0, 0.0, 0)


@pytest.fixture
def ends() -> Iterator[tuple[TaskQueue, int]]:
    """A queue, and the descriptor at its other end."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    queue = TaskQueue(writer, "test-feed")
    with reader:
        yield queue, reader.fileno()
        queue.close()
    until(lambda: not any(each.name == "test-feed" for each in threading.enumerate()), 20, "end of the feeder")


def read(fd: int, count: int) -> list[ToWorker]:
    unpacker: Unpacker[ToWorker] = Unpacker()
    came: list[ToWorker] = []
    while len(came) < count:
        came += unpacker.feed(os.read(fd, PIECE))
    return came


@pytest.mark.parametrize(
    "sizes",
    [[SMALL] * 3, [LARGE, SMALL], [SMALL, LARGE, SMALL, SMALL], [SMALL] * 5000, [SMALL, LARGE] * 50],
    ids=["small", "behind a large one", "mixed", "a full pipe", "many"],
)
def test_all_come_whole_and_in_order(ends: tuple[TaskQueue, int], sizes: list[int]) -> None:
    queue, fd = ends
    for number, size in enumerate(sizes):
        queue.put(job(number, size))  # nobody reads yet, and it does not wait
    assert read(fd, len(sizes)) == [job(number, size) for number, size in enumerate(sizes)]
    queue.put(job(7, SMALL))
    assert read(fd, 1) == [job(7, SMALL)]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_death_of_one_reader_does_not_affect_others(size: int) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    queue = TaskQueue(writer, "test-feed")
    queue.put(job(0, LARGE))  # the feeder is in the middle of it
    reader.close()
    for number in range(3):
        queue.put(job(number, size))
    queue.close()
    queue.put(job(3, size))
    until(lambda: not any(each.name == "test-feed" for each in threading.enumerate()), 20, "end of the feeder")
