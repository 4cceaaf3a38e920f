"""A worker process: jobs in by its queue, outcomes out by its pipe, and what shared memory shows meanwhile."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

import psutil
import pytest

from tests.support.continuing import TOKENS, Break, ContinuingModel
from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode import worker
from workernode.net.handover import bytes_in
from workernode.pipe import Unpacker, pack
from workernode.protocol import (
    AnswerState,
    FromWorker,
    Hold,
    Job,
    Outcome,
    RateLimitReport,
    Ready,
    SavedStream,
    Stop,
    Target,
)
from workernode.record import Node
from workernode.settings import load
from workernode.stream_memory import StreamMemory

LONG = 20.0  # seconds: what must end sooner by something else


# --- the process ---


class Worker:
    """A worker process as the pool starts one, with a fake upstream and a fake gateway."""

    def __init__(self, upstream: FakeUpstream, gateway: FakeGateway, slots: int = 4, **variables: str) -> None:
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
                **variables,
            }
        )
        node = Node("node-1", "host-a", "remote", "1.2.3", worker=0)
        self.streams, self.handover = StreamMemory(slots), context.Pipe(duplex=False)
        arguments = worker.WorkerArguments(
            settings, node, inbox, outbox, self.answer_states, self.token_counts, self.beat,
            RawArray("d", [float("inf"), 0.0]), self.streams, self.handover,
        )  # fmt: skip
        self.child = context.Process(target=worker.main, args=(arguments,), daemon=True)
        self.child.start()
        inbox.close()
        outbox.close()
        self.target = Target(settings.api_url, API_KEY)
        self._unpacker = Unpacker()
        self.messages: list[FromWorker] = []
        self.jobs: dict[str, Job] = {}
        self.number = 0

    def read_until(self, wanted: Callable[[], Any], what: str) -> Any:
        """Read its messages until `wanted` returns something true."""

        def read() -> Any:
            while wait([self.outbox], 0):
                piece = os.read(self.outbox.fileno(), 65536)
                assert piece, "the worker has exited"
                self.messages += self._unpacker.feed(piece)
            return wanted()

        return until(read, LONG, what)

    def outcomes(self) -> list[Outcome]:
        return [message for message in self.messages if isinstance(message, Outcome)]

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
        self.jobs[id] = Job(self.number, slot, payload.encode(), wall, wall, now, now + 300, 0)
        self.send(self.jobs[id])
        return id

    def send(self, message: object) -> None:
        os.write(self.inbox.fileno(), pack(message))

    def close(self) -> None:
        self.kill()
        for end in (self.inbox, self.outbox, *self.handover):
            end.close()
        self.streams.close()
        self.child.close()

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()
        self.child.join()

    def saved(self, slot: int) -> SavedStream | None:
        """What the supervisor reads of a stream of this worker, which is dead."""
        return self.streams.slot(slot).read(bytes_in(self.handover[0].fileno()))


@pytest.fixture
def process(upstream: FakeUpstream, gateway: FakeGateway) -> Iterator[Worker]:
    """A worker that is ready and has its target."""
    made = Worker(upstream, gateway)
    made.read_until(lambda: made.messages, "Ready")
    made.send(made.target)
    yield made
    made.close()


def test_a_worker_is_ready_runs_a_job_in_each_slot_and_stops(
    process: Worker, upstream: FakeUpstream, gateway: FakeGateway
) -> None:
    """Slots run at the same time and are used again; shared memory shows how far each answer is."""
    assert process.messages == [Ready(process.child.pid or 0)]
    slow = process.hand(0, {"gate_chunks": "slow", "chunks": 2}, stream=True)
    process.hand(1, {"gate": "held"})
    upstream.wait_for_inflight(2)
    gateway.wait_for_frames(slow, 1)
    assert list(process.answer_states)[:2] == [AnswerState.STARTED, AnswerState.NOT_STARTED]
    quick = process.hand(2)
    assert gateway.answer(quick).wait().text
    process.read_until(lambda: len(process.outcomes()) == 1, "first outcome")
    assert [one.request_id for one in process.outcomes()] == [quick]
    upstream.open_gate("held")
    upstream.open_gate("slow")
    process.read_until(lambda: len(process.outcomes()) == 3, "all outcomes")
    assert {one.status for one in process.outcomes()} == {"answered"}
    gateway.wait_all([one.request_id for one in process.outcomes()])
    assert gateway.faults() == []
    assert list(process.answer_states) == [AnswerState.ENDED] * 3 + [AnswerState.NOT_STARTED]
    assert list(process.token_counts) == [2, 5, 5, 0]
    again = process.hand(0)  # its slots are used again and again
    assert gateway.answer(again).wait().text
    process.send(Stop())
    process.child.join(LONG)
    assert process.child.exitcode == 0


def test_another_worker_goes_on_with_the_streams_of_one_that_is_killed(
    upstream: FakeUpstream, gateway: FakeGateway
) -> None:
    """The text that the client was sent is in memory that outlives the worker. Of the second nothing was sent but the
    role.
    """
    model = ContinuingModel(breaks=[Break(5, "wait"), Break(0, "wait")])
    upstream.script(model)
    first, second = (Worker(upstream, gateway, STREAM_RESUME="llamacpp") for _ in range(2))
    try:
        for one in (first, second):
            one.read_until(lambda one=one: one.messages, "Ready")  # type: ignore[misc]
            one.send(one.target)
        ids = []
        for slot, frames in enumerate((6, 1)):
            ids.append(first.hand(slot, stream=True))
            gateway.wait_for_frames(ids[-1], frames)
        first.kill()
        assert list(first.answer_states)[:2] == [AnswerState.STARTED] * 2
        for slot, id in enumerate(ids):
            saved = first.saved(slot)
            assert saved is not None
            assert saved.text == ("".join(TOKENS[:5]) if slot == 0 else "")
            second.send(replace(first.jobs[id], resume=saved))
        second.read_until(lambda: len(second.outcomes()) == 2, "both outcomes")
    finally:
        for one in (first, second):
            one.close()
    gateway.wait_all(ids)
    assert gateway.faults() == []
    for id in ids:
        chunks = gateway.answer(id).chunks
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == model.text
        assert len([delta for delta in deltas if delta.get("role")]) == 1
        assert len({chunk["id"] for chunk in chunks}) == 1
    for outcome in second.outcomes():
        assert (outcome.status, outcome.resumes) == ("answered", 1)
        assert json.loads(outcome.record)["resumes"][0]["reason"] == "worker_died"


def test_rate_limits_are_reported_before_the_outcome_and_a_hold_delays_the_next_call(
    process: Worker, upstream: FakeUpstream, gateway: FakeGateway
) -> None:
    process.hand(0, {"headers": {"x-ratelimit-remaining-requests": "3"}, "gate_chunks": "never"}, stream=True)
    process.read_until(
        lambda: [one for one in process.messages if isinstance(one, RateLimitReport)],
        "RateLimitReport before the outcome",
    )
    assert process.outcomes() == []
    before = time.time()
    process.send(Hold(time.monotonic() + 0.5))
    process.hand(1)
    assert upstream.wait_for_requests(2)[1].at >= before + 0.5


@pytest.mark.parametrize("depth", [900, 5000, 9900, 100_000])
def test_json_nested_deep_kills_no_worker(process: Worker, gateway: FakeGateway, depth: int) -> None:
    """Python 3.13 lets json go 10,000 levels deep: a small stack ends before, and the process with it."""
    tools = ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]
    ids = [process.hand(slot % 4, tools=tools[slot % 2], stream=slot > 1) for slot in range(4)]
    answers = [{"deep": depth, "no_stream": way, "err_msg": ""} for way in (False, True)]
    for slot, directive in enumerate(answers):
        ids.append(process.hand(slot, {**directive, "key": str(slot), "fail_times": 1}, stream=True))
    for answer in gateway.wait_all(ids):
        assert answer.faults == []
    assert process.child.is_alive()


def test_a_running_worker_beats(process: Worker) -> None:
    first = process.beat.value
    assert abs(time.monotonic() - first) < LONG
    until(lambda: process.beat.value > first, LONG, "next beat")


def test_a_worker_exits_when_its_queue_ends(process: Worker) -> None:
    process.inbox.close()
    process.child.join(LONG)
    assert process.child.exitcode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_ignores_signals_to_the_process_group(
    process: Worker, gateway: FakeGateway, number: signal.Signals
) -> None:
    assert process.child.pid is not None
    os.kill(process.child.pid, number)
    assert gateway.answer(process.hand(0)).wait().text


def test_a_worker_does_not_outlive_its_supervisor(upstream: FakeUpstream, gateway: FakeGateway) -> None:
    context = multiprocessing.get_context("spawn")
    pids, pid_writer = context.Pipe(duplex=False)
    supervisor = context.Process(target=_supervise, args=(pid_writer, upstream.api_url))
    supervisor.start()
    pid_writer.close()
    pid = pids.recv()
    orphan = psutil.Process(pid)
    supervisor.kill()
    supervisor.join()
    until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, 5, "end of the orphan")
    pids.close()
    supervisor.close()


def _supervise(pid_writer: Connection, api_url: str) -> None:
    """Start a worker, send its pid once it is ready, and wait to be killed."""

    class Nobody:
        def __init__(self) -> None:
            self.api_url = api_url

    made = Worker(Nobody(), None)  # type: ignore[arg-type]
    made.read_until(lambda: made.messages, "Ready")
    pid_writer.send(made.child.pid)
    time.sleep(600)
