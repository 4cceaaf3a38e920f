"""A worker process: jobs in by its queue, outcomes out by its pipe, and what is seen of it while it runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode import worker
from workernode.protocol import (
    AnswerState,
    Decision,
    FromWorker,
    Hold,
    Job,
    Outcome,
    RateLimitReport,
    Ready,
    Stop,
    Target,
)
from workernode.record import Node
from workernode.settings import load
from workernode.worker import LENGTH, Outbox, Unpacker

LONG = 20.0  # seconds: what must end sooner by something else


# --- the pipe out ---


def outcome(number: int, size: int = 0) -> Outcome:
    return Outcome(number, f"id-{number}", Decision.ACK, "answered", b"x" * size)


def read_all(fd: int, pieces: list[bytes], size: int = 65536) -> None:
    while piece := os.read(fd, size):
        pieces.append(piece)


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(1, 5000))
def test_messages_come_out_whole_however_the_pipe_cuts_them(sizes: list[int], cut: int) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    pieces: list[bytes] = []
    thread = threading.Thread(target=read_all, args=(reader.fileno(), pieces, cut))
    thread.start()
    outbox = Outbox(writer)
    sent: list[FromWorker] = [outcome(number, size) for number, size in enumerate(sizes)]
    for message in sent:
        outbox.put(message)
    writer.close()
    thread.join()
    reader.close()
    unpacker = Unpacker()
    assert [message for piece in pieces for message in unpacker.feed(piece)] == sent


def test_messages_of_many_threads_do_not_mix() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    pieces: list[bytes] = []
    drain = threading.Thread(target=read_all, args=(reader.fileno(), pieces))
    drain.start()
    outbox = Outbox(writer)
    senders = [
        threading.Thread(target=lambda start=start: [outbox.put(outcome(start + n, 20_000)) for n in range(10)])
        for start in range(0, 80, 10)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    writer.close()
    drain.join()
    reader.close()
    unpacker = Unpacker()
    got = [message for piece in pieces for message in unpacker.feed(piece)]
    assert sorted(message.number for message in got if isinstance(message, Outcome)) == list(range(80))


def test_half_a_message_is_waited_for_without_waiting() -> None:
    """A worker may be killed while it writes: what it had written whole counts, the rest is nothing."""
    import pickle

    body = pickle.dumps(outcome(1))
    whole = LENGTH.pack(len(body)) + body
    unpacker = Unpacker()
    assert unpacker.feed(whole + whole[:-1]) == [outcome(1)]
    assert unpacker.feed(b"") == []
    assert unpacker.feed(whole[-1:]) == [outcome(1)]


# --- the process ---


class Worker:
    """A worker process as the pool starts one, with a fake upstream and a fake gateway."""

    def __init__(self, upstream: FakeUpstream, gateway: FakeGateway, slots: int = 4) -> None:
        self.gateway = gateway
        context = multiprocessing.get_context("spawn")
        inbox, self.inbox = context.Pipe(duplex=False)
        self.outbox, outbox = context.Pipe(duplex=False)
        self.answer_states, self.token_counts, self.beat = (
            RawArray("B", slots),
            RawArray("d", slots),
            RawValue("d", 0.0),
        )
        settings = load(
            {
                "NODE_TYPE": "remote",
                "MODEL_NAME": "m",
                "API_URL": upstream.api_url,
                "API_KEY": API_KEY,
                "PULSAR_URL": "pulsar://127.0.0.1",
            }
        )
        node = Node("node-1", "host-a", "remote", "1.2.3", worker=0)
        arguments = worker.WorkerArguments(
            settings, node, inbox, outbox, self.answer_states, self.token_counts, self.beat
        )
        self.process = context.Process(target=worker.main, args=(arguments,), daemon=True)
        self.process.start()
        inbox.close()
        outbox.close()
        self.target = Target(settings.api_url, API_KEY)
        self._unpacker = Unpacker()
        self.heard: list[FromWorker] = []
        self.number = 0

    def hear(self, wanted: Callable[[], Any], what: str) -> Any:
        """Read what it says until there is what is wanted."""

        def listen() -> Any:
            while wait([self.outbox], 0):
                piece = os.read(self.outbox.fileno(), 65536)
                assert piece, "the worker has left"
                self.heard += self._unpacker.feed(piece)
            return wanted()

        return until(listen, LONG, what)

    def outcomes(self) -> list[Outcome]:
        return [message for message in self.heard if isinstance(message, Outcome)]

    def hand(self, slot: int, directive: dict[str, Any] | None = None, stream: bool = False, tools: str = "[]") -> str:
        """Give it a task; gives its id. `tools` is JSON."""
        self.number += 1
        id = f"id-{self.number}"
        self.gateway.register(id)
        task = {
            "request_id": id,
            "stream": stream,
            "endpoint": self.gateway.ws_url if stream else self.gateway.post_url,
            "data": {"messages": [{"role": "user", "content": "lab:" + json.dumps(directive or {})}]},
        }
        payload = json.dumps(task).replace('"messages"', f'"tools": {tools}, "messages"')
        now, wall = time.monotonic(), time.time()
        self.inbox.send(Job(self.number, slot, payload.encode(), wall, wall, now, now + 300, 0))
        return id

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        for end in (self.inbox, self.outbox):
            end.close()
        self.process.close()


@pytest.fixture
def crew(upstream: FakeUpstream, gateway: FakeGateway) -> Iterator[Worker]:
    """A worker that is ready and knows whom to ask."""
    made = Worker(upstream, gateway)
    made.hear(lambda: made.heard, "Ready")
    made.inbox.send(made.target)
    yield made
    made.close()


def test_a_life_of_a_worker(crew: Worker, upstream: FakeUpstream, gateway: FakeGateway) -> None:
    """Ready, a job for each slot at once, their outcomes as they end, what is seen of them meanwhile, and goodbye."""
    assert crew.heard == [Ready(crew.process.pid or 0)]
    slow = crew.hand(0, {"gate_chunks": "slow", "chunks": 2}, stream=True)
    crew.hand(1, {"gate": "held"})
    upstream.wait_for_inflight(2)
    gateway.wait_for_frames(slow, 1)
    assert list(crew.answer_states)[:2] == [AnswerState.STARTED, AnswerState.NOT_STARTED]
    quick = crew.hand(2)
    assert gateway.answer(quick).wait().text
    crew.hear(lambda: len(crew.outcomes()) == 1, "first outcome")
    assert [one.request_id for one in crew.outcomes()] == [quick]
    upstream.open_gate("held")
    upstream.open_gate("slow")
    crew.hear(lambda: len(crew.outcomes()) == 3, "all outcomes")
    assert {one.status for one in crew.outcomes()} == {"answered"}
    gateway.wait_all([one.request_id for one in crew.outcomes()])
    assert gateway.faults() == []
    assert list(crew.answer_states) == [AnswerState.ENDED] * 3 + [AnswerState.NOT_STARTED]
    assert list(crew.token_counts) == [2, 5, 5, 0]
    again = crew.hand(0)  # its slots are used again and again
    assert gateway.answer(again).wait().text
    crew.inbox.send(Stop())
    crew.process.join(LONG)
    assert crew.process.exitcode == 0


def test_what_upstream_says_of_limits_is_told_at_once_and_holds_are_heeded(
    crew: Worker, upstream: FakeUpstream, gateway: FakeGateway
) -> None:
    crew.hand(0, {"headers": {"x-ratelimit-remaining-requests": "3"}, "gate_chunks": "never"}, stream=True)
    crew.hear(
        lambda: [one for one in crew.heard if isinstance(one, RateLimitReport)], "RateLimitReport before the outcome"
    )
    assert crew.outcomes() == []
    crew.inbox.send(Hold(time.monotonic() + 0.5))
    started = time.time()
    crew.hand(1)
    assert upstream.wait_for_requests(2)[1].at - started >= 0.3


@pytest.mark.parametrize("depth", [900, 5000, 9900, 100_000])
def test_json_nested_deep_kills_no_worker(crew: Worker, gateway: FakeGateway, depth: int) -> None:
    """Python 3.13 lets json go 10,000 levels deep: a small stack ends before, and the process with it."""
    tools = ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]
    ids = [crew.hand(slot % 4, tools=tools[slot % 2], stream=slot > 1) for slot in range(4)]
    answers = [{"deep": depth, "no_stream": way, "err_msg": ""} for way in (False, True)]
    for slot, directive in enumerate(answers):
        ids.append(crew.hand(slot, {**directive, "key": str(slot), "fail_times": 1}, stream=True))
    for answer in gateway.wait_all(ids):
        assert answer.faults == []
    assert crew.process.is_alive()


def test_a_worker_shows_that_it_lives(crew: Worker) -> None:
    first = crew.beat.value
    assert abs(time.monotonic() - first) < LONG
    until(lambda: crew.beat.value > first, LONG, "next beat")


def test_a_worker_leaves_when_its_queue_ends(crew: Worker) -> None:
    crew.inbox.close()
    crew.process.join(LONG)
    assert crew.process.exitcode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_group_are_the_supervisors_business(
    crew: Worker, gateway: FakeGateway, number: signal.Signals
) -> None:
    assert crew.process.pid is not None
    os.kill(crew.process.pid, number)
    assert gateway.answer(crew.hand(0)).wait().text


def test_a_worker_does_not_outlive_its_supervisor(upstream: FakeUpstream, gateway: FakeGateway) -> None:
    context = multiprocessing.get_context("spawn")
    pids, told = context.Pipe(duplex=False)
    supervisor = context.Process(target=_supervise, args=(told, upstream.api_url))
    supervisor.start()
    told.close()
    pid = pids.recv()
    orphan = psutil.Process(pid)
    supervisor.kill()
    supervisor.join()
    until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, 5, "end of the orphan")
    pids.close()
    supervisor.close()


def _supervise(told: Connection, api_url: str) -> None:
    """Start a worker, tell its pid once it is ready, and wait to be killed."""

    class Nobody:
        def __init__(self) -> None:
            self.api_url = api_url

    made = Worker(Nobody(), None)  # type: ignore[arg-type]
    made.hear(lambda: made.heard, "Ready")
    told.send(made.process.pid)
    time.sleep(600)
