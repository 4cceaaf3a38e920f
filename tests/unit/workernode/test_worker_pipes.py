"""What goes through a worker's two pipes: jobs become tasks that run at the same time, outcomes leave together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workernode.net.hub import Hub
from workernode.net.waiting import sleep
from workernode.pipe import Unpacker, pack
from workernode.protocol import Decision, FromWorker, Hold, Job, Outcome, Stop, Target
from workernode.worker_pipes import Inbox, Outbox


class Upstream:
    """Keeps what the inbox gives it; see workernode.upstream.Upstream."""

    def __init__(self) -> None:
        self.taken: list[object] = []
        self.set_hold = self.set_target = self.taken.append


class Pipe:
    """A pipe, both ends of which are closed at the end of the test."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def send(self, *messages: object) -> None:
        os.write(self.writer, b"".join(map(pack, messages)))

    def close(self, *ends: int) -> None:
        for end in ends or (self.reader, self.writer):
            try:
                os.close(end)
            except OSError:
                pass  # a test has closed it


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def job(number: int) -> Job:
    return Job(number, 0, b"", 0.0, 0.0, 0.0, 0.0, 0)


def outcome(number: int, size: int = 0) -> Outcome:
    return Outcome(number, f"id-{number}", Decision.ACK, "answered", b"x" * size)


def serve(pipe: Pipe, run: Callable[[Job], None], upstream: Any = None) -> None:
    """Run a hub with an inbox until it stops."""
    hub = Hub()
    Inbox(pipe.reader, hub, upstream or Upstream(), run, lambda granted: None)
    hub.run()


def test_jobs_run_at_the_same_time(pipe: Pipe) -> None:
    running: list[int] = []
    most: list[int] = []

    def run(job: Job) -> None:
        running.append(job.number)
        while len(most) < 3 and len(running) < 3:
            sleep(0.001)
        most.append(len(running))
        if len(most) == 3:
            pipe.send(Stop())

    pipe.send(job(0), job(1), job(2))
    serve(pipe, run)
    assert most == [3, 3, 3]


def test_holds_and_targets_go_to_upstream_in_their_order(pipe: Pipe) -> None:
    upstream = Upstream()
    target = Target("http://127.0.0.1/v1", None)
    pipe.send(Hold(1.0), target, Hold(2.0), Stop())
    serve(pipe, lambda job: None, upstream)
    assert upstream.taken == [Hold(1.0), target, Hold(2.0)]


def test_the_hub_stops_when_the_supervisor_is_gone(pipe: Pipe) -> None:
    pipe.close(pipe.writer)
    serve(pipe, lambda job: None)


def test_a_job_that_fails_ends_the_process(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that the supervisor decides its task: without it, the slot would be lost for good."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), pipe.send(Stop())))
    pipe.send(job(1))
    serve(pipe, lambda job: 1 / 0)  # type: ignore[arg-type, return-value]
    assert codes == [1]
    assert "ZeroDivisionError" in caplog.text


def test_what_is_put_in_one_turn_leaves_in_one_write(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = os.write
    hub = Hub()
    outbox = Outbox(pipe.writer, hub)

    def put() -> None:
        for number in range(3):
            outbox.put(outcome(number))

    def stop() -> None:
        sleep(0.01)
        hub.stop()

    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    for work in (put, put, stop):
        hub.start(work)
    hub.run()
    assert sizes == [2 * sum(len(pack(outcome(number))) for number in range(3))]


def test_messages_come_whole_and_in_order_through_a_pipe_whose_reader_is_slow(pipe: Pipe) -> None:
    """A message may be larger than the pipe; other tasks run while it waits for room."""
    hub = Hub()
    outbox = Outbox(pipe.writer, hub)
    turns: list[int] = []
    got: list[FromWorker] = []

    def put() -> None:
        for number in range(20):
            outbox.put(outcome(number, 30_000))
            sleep(0.001)
        turns.append(len(got))
        threading.Thread(target=read).start()
        while len(got) < 20:
            sleep(0.001)
        hub.stop()

    def read() -> None:
        unpacker: Unpacker[FromWorker] = Unpacker()
        while len(got) < 20:
            got.extend(unpacker.feed(os.read(pipe.reader, 7000)))

    hub.start(put)
    hub.run()
    assert turns == [0]
    assert got == [outcome(number, 30_000) for number in range(20)]
