"""What the simulation assumes of worker processes: one script, run against a real process and a simulated one."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from supervisor.workers.contract import Process
from supervisor.workers.process import WorkerProcess
from tests.simulation.node import SimNode, settings_of
from tests.simulation.outside import Gateway, Upstream
from tests.simulation.pulsar import Server
from tests.simulation.schedule import TaskPlan, make
from tests.simulation.world import World
from tests.support.wait import until
from workernode.pipe import Unpacker
from workernode.protocol import Hold, Job, Kept, Ready, Stop
from workernode.record import Node

TIMEOUT = 30.0  # seconds; a bound for a broken run
LARGE = 4 << 20  # bytes: many times what a pipe holds


class Host:
    """Who has the process: waits for what becomes of it."""

    def __init__(self, process: Process, wait: Callable[[Callable[[], bool]], None]) -> None:
        self.process = process
        self.wait = wait
        self.unpacker: Unpacker[Any] = Unpacker()
        self.messages: list[Any] = []
        self.bytes_taken = 0  # by `take`

    def read_until_ready(self) -> None:
        while not self.messages:  # a message may come in pieces
            self.wait(self.pipe_readable)
            self.messages += self.unpacker.feed(self.process.read())

    def pipe_readable(self) -> bool:
        return _readable(self.process.pipe, "pipe_readable")

    def sentinel_readable(self) -> bool:
        return _readable(self.process.sentinel, "sentinel_readable")

    def is_running(self) -> bool:
        if hasattr(self.process, "is_alive"):
            return bool(self.process.is_alive)
        assert self.process.pid is not None
        try:
            os.kill(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return "\nState:\tZ" not in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")

    def hang(self) -> None:
        if hasattr(self.process, "hang"):
            self.process.hang(1000.0)
        else:
            assert self.process.pid is not None
            os.kill(self.process.pid, signal.SIGSTOP)

    def begin_large_message(self) -> None:
        """Give it an answer whose gateway is away. It reports that, with the answer, and has not written all of it."""
        simulated = getattr(self.process, "host", None)
        now = simulated.world.now if simulated else time.monotonic()
        kept = Kept("http://127.0.0.1:1", is_reached=False, until=now + 1000.0, parts=(b"x" * LARGE,))
        payload = b'{"request_id":"large","stream":false,"endpoint":"http://127.0.0.1:1/res","data":{}}'
        job = Job(1, 0, payload, time.time(), time.time(), now, now + 1000.0, 0, kept=kept)
        if simulated:
            simulated.plans["large"] = plan = TaskPlan("large", False, 1, 0.0)
            simulated.gateway.publish(plan)
            simulated.gateway.away_until = now + 1000.0
            self.process._dice.random = lambda: 0.0  # type: ignore[attr-defined]  # it dies amid a message
            self.process.put(job)
            simulated.world.run(now + 0.5)
            return
        self.process.put(job)
        self.wait(self.pipe_readable)
        self.take(self.process.read())

    def take(self, piece: bytes) -> None:
        self.bytes_taken += len(piece)
        self.messages += self.unpacker.feed(piece)

    def kill_forkserver(self) -> None:
        if hasattr(self.process, "orphan"):
            self.process.orphan()
        else:
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)


def _readable(source: Any, simulated: str) -> bool:
    if hasattr(source, simulated):
        return bool(getattr(source, simulated))
    return bool(select.select([source], [], [], 0)[0])


@pytest.fixture(params=["real", "simulated"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    settings = settings_of(2, 1, 60.0, 1.0, 1, 1.0)
    if request.param == "simulated":
        world = World(1)
        schedule = make(1)
        node = SimNode("n", schedule, world, Server(world, True), Gateway(world), Upstream(world, False), {})
        process = node._spawn(0, 2)
        yield Host(process, lambda done: world.run(world.now + TIMEOUT, done))
        return
    real = WorkerProcess(0, 2, settings, Node("n", "host", "remote", "test"))
    yield Host(real, lambda done: until(done, TIMEOUT, "change of the process"))
    real.kill()
    assert real.join(TIMEOUT)
    real.close()


def test_a_process_reports_ready_and_beats(host: Host) -> None:
    host.read_until_ready()
    assert [type(message) for message in host.messages] == [Ready]
    host.wait(lambda: host.process.beat > 0)
    assert not host.sentinel_readable()


def test_after_a_death_the_pipe_ends_the_sentinel_fires_and_writing_does_no_harm(host: Host) -> None:
    host.read_until_ready()
    host.process.kill()
    host.wait(host.sentinel_readable)
    host.wait(host.pipe_readable)
    host.process.put(Hold(0.0))
    assert list(host.process.read_rest()) == []
    assert host.process.read() == b""
    assert host.process.join(TIMEOUT)
    assert host.process.cause() == "killed by SIGKILL from outside"
    assert host.process.was_killed_from_outside()


def test_a_process_that_is_asked_to_stop_stops(host: Host) -> None:
    host.read_until_ready()
    host.process.put(Stop())
    assert host.process.join(TIMEOUT)
    assert host.process.cause() == "exit code 0"
    assert not host.process.was_killed_from_outside()


def test_a_process_that_hangs_does_not_stop_and_can_be_killed(host: Host) -> None:
    host.read_until_ready()
    host.hang()
    host.process.put(Stop())
    assert not host.process.join(0.3)
    host.process.kill()
    assert host.process.join(TIMEOUT)


def test_without_its_forkserver_a_process_is_reported_dead_only_when_it_is_dead(host: Host) -> None:
    """multiprocessing reports it as dead at once; the supervisor kills it before it believes that."""
    host.read_until_ready()
    host.kill_forkserver()
    host.wait(host.sentinel_readable)
    assert not host.is_running()
    assert host.process.cause() == "its fork server was killed"
    assert host.process.was_killed_from_outside()


def test_of_a_process_that_is_killed_amid_a_large_message_no_part_of_it_is_taken_for_a_message(host: Host) -> None:
    host.read_until_ready()
    host.begin_large_message()
    host.process.kill()
    host.wait(host.sentinel_readable)
    for piece in host.process.read_rest():
        host.take(piece)
    assert 0 < host.bytes_taken < LARGE
    assert [type(message) for message in host.messages] == [Ready]
    assert host.process.read() == b""
