"""Exactly one end, as a property: whatever errors, broken connections, worker deaths and drains a stream meets, its
gateway gets chunks and then one end; no text comes twice, and a stream that has begun never starts again.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.testbed import Testbed, kill

STREAMS = 120
KILLS = 10  # more would only repeat themselves
WORKERS = 3


def story(dice: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """What upstream and gateway do to one stream."""
    does: dict[str, Any] = {"chunks": dice.randrange(0, 12), "chunk_ms": dice.choice((0, 5, 40))}
    does |= dice.choice(
        [{}, {}, {}, {"error_mid": True}, {"cut_after": dice.randrange(1, 6)}, {"no_finish": True, "no_done": True},
         {"truncated": True}, {"no_done": True}, {"split": True}, {"usage_on_last": True}, {"no_stream": True},
         {"status": 500, "fail_times": dice.choice((1, 2, 0))}, {"reset": True, "fail_times": 1}, {"status": 400},
         {"one_write": True}, {"latency_ms": 400}, {"nan": True}, {"raw": 'data: {"error":{"message":"no"}}\n\n'}]
    )  # fmt: skip
    behaviour: dict[str, Any] = dice.choice(
        [{}, {}, {}, {}, {"cut_after": dice.randrange(0, 6)}, {"close_after": dice.randrange(0, 6)}, {"no_pong": True},
         {"close_after_end": True}, {"slow_read_ms": 1}]
    )  # fmt: skip
    return does, behaviour


@pytest.mark.parametrize("seed", [1])
def test_chunks_then_one_end(seed: int, build: Callable[..., Testbed]) -> None:
    dice = random.Random(seed)
    testbed = build(
        WORKER_PROCESSES=WORKERS, MAX_PROCESS_NUM=48, MAX_REDELIVERIES=2, DRAIN_TIMEOUT=1, READ_TIMEOUT=3,
        # The last streams all fail: the node finds its upstream away, and closes its intake for a quarter of this.
        TASK_TIMEOUT=60,
    )
    first = testbed.start()
    stories = {}
    for number in range(STREAMS):
        does, behaviour = story(dice)
        does["key"] = f"{seed}-{number}"
        id = f"{seed}-{number}-{dice.getrandbits(64):x}"
        if behaviour:
            testbed.gateway.behave(id, **behaviour)
        stories[id] = does, behaviour
    stop = threading.Event()
    kills = _killer(testbed, dice, stop)
    for count, (id, (does, _)) in enumerate(stories.items()):
        testbed.platform.ask(does, stream=True, request_id=id)
        if count == STREAMS * 2 // 3:  # one node leaves in the middle, another comes
            testbed.start()
            first.sigterm()
    first.wait_exit(40)
    seen = testbed.platform.wait_records(_settled, STREAMS, 60, "final records")
    stop.set()
    kills.join()
    testbed.platform.wait_backlog(0, 40)
    statuses = {one["request_id"]: one["outcome"]["status"] for one in seen}
    for id, (does, behaviour) in stories.items():
        _holds(testbed, id, does, behaviour, statuses[id])
    died = sum(line.get("event") == "worker_died" for node in testbed.nodes for line in node.logs())
    print(f"{STREAMS} streams, {died} workers killed, {sorted(statuses.values())}")
    testbed.close_nodes()


def _settled(record: dict[str, Any]) -> bool:
    return bool(record["outcome"]["decision"] != "nak")


def _killer(testbed: Testbed, dice: random.Random, stop: threading.Event) -> threading.Thread:
    """Kill a worker of the newest node now and then, until the test stops it."""

    def run() -> None:
        killed = 0
        while killed < KILLS and not stop.wait(0.6):
            workers = testbed.node.workers()
            if len(workers) == WORKERS:
                killed += kill(dice.choice(workers), signal.SIGKILL)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _holds(testbed: Testbed, id: str, does: dict[str, Any], behaviour: dict[str, Any], status: str) -> None:
    """The property."""
    answer = testbed.gateway.answer(id)
    about = (does, behaviour, status, answer)
    assert not answer.dropped, about
    assert not answer.after_end, about
    assert answer.ends <= 1, about
    assert all(frame.has_data for frame in answer.frames if not frame.end), about
    cut = behaviour.get("cut_after", behaviour.get("close_after")) is not None
    assert answer.ends == 1 or cut, about  # the end can be lost together with the connection
    errors = [number for number, chunk in enumerate(answer.chunks) if "error" in (chunk or {})]
    assert len(errors) <= 1 + cut, about  # it is repeated over a new connection, because the first one may be lost
    assert errors == list(range(len(answer.chunks) - len(errors), len(answer.chunks))), about  # nothing follows it
    word = "wörd {} " if not does.get("no_stream") else "wörd "
    whole = "".join(word.format(number) for number in range(does["chunks"]))
    assert whole.startswith(answer.text), about  # from the beginning, in order, nothing twice
    if status == "answered" and answer.ends and not errors and not cut:
        assert answer.text == whole, about
