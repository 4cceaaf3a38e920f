"""A pool over fake processes, under a clock that the test moves: no process, no sleep."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from supervisor.machine import Clock
from supervisor.workers import pool as pool_module
from supervisor.workers.pool import Pool, Worker
from workernode import pipe
from workernode.protocol import Decision, FromWorker, Job, Outcome, Ready, SavedStream, Stop, ToWorker

FOR_EVER = float("inf")


class FakeProcess:
    """A process that the test controls."""

    def __init__(self, index: int, slots: int, now: float) -> None:
        self.index = index
        self.answer_states = [0] * slots
        self.pid: int | None = 1000 + index
        self.pipe = self.sentinel = self
        self.beat = now
        self.tokens = 0.0
        self.got: list[ToWorker] = []
        self.pieces: deque[bytes] = deque()
        self.killed = self.closed = 0
        self.stops = True  # when asked to
        self.streams: dict[int, SavedStream] = {}
        self.is_killed_from_outside = False

    def put(self, message: ToWorker) -> None:
        self.got.append(message)

    def write(self, *messages: FromWorker) -> None:
        self.pieces += [pipe.pack(message) for message in messages]

    def read(self) -> bytes:
        return self.pieces.popleft() if self.pieces else b""

    def read_rest(self) -> Iterator[bytes]:
        while self.pieces:
            yield self.pieces.popleft()

    def forget_stream(self, slot: int) -> None:
        self.streams.pop(slot, None)

    def saved_stream(self, slot: int) -> SavedStream | None:
        return self.streams.get(slot)

    def kill(self) -> None:
        self.killed += 1

    def join(self, timeout: float | None = None) -> bool:
        return self.killed > 0 or (self.stops and Stop() in self.got)

    def cause(self) -> str:
        return "exit code 7"

    def was_killed_from_outside(self) -> bool:
        return self.is_killed_from_outside

    def close(self) -> None:
        self.closed += 1


class Harness:
    """A pool of fake processes, with a clock that the test moves."""

    def __init__(self, count: int = 2, slots: int = 4) -> None:
        self.now = 100.0
        self.processes: list[FakeProcess] = []
        self.watched: list[Worker] = []
        self.pool = Pool(count, slots, self._spawn, self, Clock(lambda: self.now, lambda: 0.0))

    def _spawn(self, index: int, slots: int) -> FakeProcess:
        self.processes.append(FakeProcess(index, slots, self.now))
        return self.processes[-1]

    def watch(self, worker: Worker) -> None:
        self.watched.append(worker)

    def unwatch_pipe(self, worker: Worker) -> None:
        assert worker in self.watched

    def unwatch(self, worker: Worker) -> None:
        self.watched.remove(worker)

    def ready(self) -> None:
        """Have every worker report that it takes jobs."""
        for one in self.watched:
            one.process.write(Ready(1))
            assert [type(message) for message in self.pool.collect(one)] == [Ready]

    def worker(self, index: int) -> Worker:
        return next(one for one in self.watched if one.index == index)

    def submit(self, number: int, alone: bool = False) -> tuple[int, int] | None:
        return self.pool.submit(job(number), alone)

    def die(self, index: int) -> pool_module.WorkerDeath:
        last, death = self.pool.reap(self.worker(index))
        assert not last
        return death


def job(number: int) -> Job:
    return Job(number, -1, b"{}", 0.0, 0.0, 0.0, FOR_EVER, 0)


def outcome(number: int) -> Outcome:
    return Outcome(number, f"id-{number}", Decision.ACK, "answered", b"{}")
