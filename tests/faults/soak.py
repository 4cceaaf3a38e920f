"""The long runs: thousands of tasks through every fault at once, and what came of each, counted.

    python -m tests.faults.soak mix --tasks 3000      all faults of upstream and gateway, a worker killed every 2 s
    python -m tests.faults.soak broker --tasks 500    the broker killed in the middle
    python -m tests.faults.soak takeover --tasks 500  the supervisor killed in the middle, a second node takes over
    python -m tests.faults.soak deaf --seconds 65     the broker stopped for so long
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import Testbed, kill, open_testbed, pss_bytes
from tests.support.wait import until

KILL_EVERY = 2.0  # seconds
IN_FLIGHT = 64
OPEN = 3 * IN_FLIGHT  # tasks published and not yet answered: some wait out the delay of a nak
WORKERS = 4

# What upstream does to a task, with its weight; most tasks meet nothing, as in life.
UPSTREAM: list[tuple[int, dict[str, Any]]] = [
    (40, {}),
    (10, {"latency_ms": 300}),
    (10, {"chunk_ms": 30, "chunks": 10}),
    (4, {"status": 500, "fail_times": 1}),
    (3, {"status": 503, "fail_times": 2}),
    (2, {"status": 408, "fail_times": 1}),
    (2, {"status": 409, "fail_times": 1}),
    (2, {"status": 425, "fail_times": 1}),
    (2, {"reset": True, "fail_times": 1}),
    (2, {"close": True, "fail_times": 1}),
    (2, {"html": True, "fail_times": 1}),
    (2, {"truncated": True}),
    (2, {"cut_after": 3, "chunk_ms": 10}),
    (2, {"error_mid": True, "chunk_ms": 10}),
    (2, {"no_finish": True, "no_done": True}),
    (2, {"nan": True}),
    (2, {"invalid_utf8": True}),
    (1, {"deep": 50_000}),
    (1, {"hang_ms": 60_000, "fail_times": 1}),
    (1, {"big_mb": 1}),
    (3, {"status": 400}),
    (2, {"status": 413}),
    (1, {"status": 500}),
    (2, {"redirect_to": "http://127.0.0.1:9/"}),
    (2, {"split": True}),
    (2, {"then_close": True}),
]
# What the gateway does to its answer; `False`: a fault that leaves the client without one, because it has gone.
GATEWAY: list[tuple[int, dict[str, Any], bool]] = [
    (60, {}, True),
    (3, {"status": 500, "times": 2}, True),
    (3, {"status": 429, "times": 1}, True),
    (3, {"reset": True, "times": 1}, True),
    (2, {"delay_ms": 500}, True),
    (2, {"take_then_reset": True}, True),
    (2, {"cut_after": 2}, False),
    (2, {"close_after": 1}, False),
    (2, {"close_after_end": True}, True),
    (2, {"slow_read_ms": 1}, True),
]
STREAM_ONLY = ("cut_after", "close_after", "close_after_end", "slow_read_ms")


class Counted:
    """What a run did and what came of it."""

    def __init__(self, world: Testbed, ids: dict[str, bool], *, is_node_killed: bool = False) -> None:
        """Begin with nothing counted.

        Args:
            world: the nodes, and what is around them.
            ids: request id → must its client have an answer?
            is_node_killed: a supervisor was killed. A client of which it had announced the end, and not sent it yet,
                has none (docs/faults.md, "What cannot be promised"). What it had answered in its last moments and not
                yet acked is handed out again to a node that cannot know: it may leave a second record, with another
                `attempt_id`.
        """
        self.world = world
        self.ids = ids
        self.is_node_killed = is_node_killed
        self.figures: dict[str, Any] = {"tasks": len(ids)}

    def settle(self, timeout: float) -> None:
        """Wait until every task has left the broker with its record, then count."""
        platform, gateway = self.world.platform, self.world.gateway
        if self.is_node_killed:
            until(lambda: self._unanswered() <= platform.announced_ends(), timeout, "answers or announced ends")
        else:
            gateway.wait_all([id for id, must in self.ids.items() if must], timeout)
        platform.wait_backlog(0, timeout)
        finals = self._finals()
        until(lambda: len(set(self.ids) - set(finals())) == 0, timeout, "final record for every task")
        records = finals()
        excused = self._unrecorded() if self.is_node_killed else set()  # of the dead node: a living one stores its own
        answers = [gateway.answer(id) for id in self.ids]
        taken = {id: sum(post.taken for post in one.posts) + sum(f.end and f.taken for f in one.frames)
                 for id, one in zip(self.ids, answers, strict=True)}  # fmt: skip
        asked = Counter(one.headers.get("x-client-request-id", "") for one in list(self.world.upstream.requests))
        self.figures |= {
            "answers": sum(taken.values()),
            "clients gone before their end": sum(count == 0 for count in taken.values()),
            "answered twice": sum(count > 1 for count in taken.values()),
            "unanswered": sum(must and not taken[id] and id not in excused for id, must in self.ids.items()),
            "frames after an end": sum(len(one.after_end) for one in answers),
            "frames before the id was known": sum(len(one.dropped) for one in answers),
            "POSTs for what was answered (404)": sum(len(one.late_posts) for one in answers),
            "final records": sum(records.values()),
            "tasks with more than one final record": sum(count > 1 for count in records.values()),
            "upstream calls": sum(asked.values()),
            "upstream calls for tasks that were handed out again": self._repeated(),
            "statuses": dict(self._statuses()),
            "backlog": platform.backlog(),
        }

    def check(self) -> None:
        """What must hold whatever was done."""
        zero = ["answered twice", "unanswered", "frames before the id was known", "backlog"]
        if not self.is_node_killed:
            zero += ["frames after an end", "tasks with more than one final record"]
        for name in zero:
            assert self.figures[name] == 0, (name, self.figures)

    def _unanswered(self) -> set[str]:
        return {id for id, must in self.ids.items() if must and not self.world.gateway.answer(id).done.is_set()}

    def _unrecorded(self) -> set[str]:
        """Tasks whose end was announced by a node that is gone, and whose record another node stored."""
        records = self.world.platform.records()
        return {one["request_id"] for one in records if one["outcome"]["status"] == "unrecorded"}

    def _finals(self) -> Callable[[], Counter[str]]:
        def read() -> Counter[str]:
            unique = {
                one["attempt_id"]: one["request_id"]  # a record that was sent again is the same record
                for one in self.world.platform.records()
                if one["outcome"]["decision"] != "nak"
            }
            return Counter(id for id in unique.values() if id in self.ids)

        return read

    def _statuses(self) -> Counter[str]:
        return Counter(
            one["outcome"]["status"]
            for one in self.world.platform.records()
            if one["outcome"]["decision"] != "nak" and one["request_id"] in self.ids
        )

    def _repeated(self) -> int:
        """Calls that were made because a node or a worker died, or an ack was lost: not the worker's own retries."""
        return sum(one["attempts"] for one in self.world.platform.records() if one["redeliveries"] > 0)


def mix(world: Testbed, tasks: int, seed: int, kill_every: float) -> Counted:
    """A random mix of all faults with a worker killed every so often."""
    dice = random.Random(seed)
    node = world.start(WORKER_PROCESSES=WORKERS, MAX_PROCESS_NUM=IN_FLIGHT, READ_TIMEOUT=3, MAX_REDELIVERIES=3)
    ids: dict[str, bool] = {}
    faults = Counter[str]()
    memory: list[tuple[int, int]] = []  # tasks done, bytes
    stop = threading.Event()
    killed: list[int] = []
    most = 0

    def killing() -> None:
        while not stop.wait(kill_every):
            workers = node.workers()
            if workers:
                killed.append(dice.choice(workers))
                kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=killing, daemon=True)
    killer.start()
    start = time.monotonic()
    for number in range(tasks):
        (does,) = dice.choices([one for _, one in UPSTREAM], [weight for weight, _ in UPSTREAM])
        ((manners, must),) = dice.choices([(how, must) for _, how, must in GATEWAY], [one[0] for one in GATEWAY])
        way = dice.random() < 0.5
        id = f"{seed}-{number}"
        if manners and way != any(name in manners for name in STREAM_ONLY):
            manners, must = {}, True
        if manners:
            world.gateway.behave(id, **manners)
            faults[next(iter(manners))] += 1
        if does:
            faults[next(iter(does))] += 1
        ids[id] = must
        world.platform.ask({**does, "key": id}, stream=way, request_id=id)
        if number % 20 == 19:
            _wait_room(world, ids)
            memory.append((number + 1, pss_bytes(node)))
            most = max(most, world.platform.unacked())
    counted = Counted(world, ids)
    try:
        counted.settle(300)
    finally:
        stop.set()
        killer.join()
    died = sum(line.get("event") == "worker_died" for line in node.logs())
    counted.figures |= {
        "seconds": round(time.monotonic() - start, 1),
        "most in flight": most,
        "workers killed": len(killed),
        "worker deaths seen": died,
        "faults injected": sum(faults.values()) + len(killed),
        "faults by kind": dict(faults),
        "memory MiB": _memory(memory, tasks),
    }
    return counted


def _wait_room(world: Testbed, ids: dict[str, bool]) -> None:
    """Wait until only so many tasks are open that the node is full and no queue grows."""

    def room() -> bool:
        answers = [world.gateway.answer(id) for id, must in ids.items() if must]
        return sum(not one.done.is_set() for one in answers) < OPEN

    until(room, 240, "room for more")


def _memory(samples: list[tuple[int, int]], tasks: int) -> dict[str, float]:
    """The typical memory around a third of the run and at its end; a sample may meet a worker being born."""
    third = sorted(size for done, size in samples if tasks * 0.25 <= done <= tasks * 0.42)
    end = sorted(size for done, size in samples if done > tasks * 0.83)
    middle = [part[len(part) // 2] / 2**20 for part in (third, end) if part]
    if len(middle) < 2:
        return {}
    first, last = middle
    return {"at a third": round(first, 1), "at the end": round(last, 1), "growth": round(last / first - 1, 3)}


def crash(world: Testbed, tasks: int, what: Callable[[], None], *, is_node_killed: bool = False) -> Counted:
    """A load of good tasks, with something terrible in the middle."""
    start = time.monotonic()
    slow = {"latency_ms": 150, "chunks": 5, "chunk_ms": 20}
    ids = world.platform.ask_many([slow] * (tasks // 2))
    ids += world.platform.ask_many([slow] * (tasks - tasks // 2), stream=True)
    until(lambda: sum(one.done.is_set() for one in world.gateway.answers) > tasks // 3, 120, "a third of the answers")
    what()
    counted = Counted(world, dict.fromkeys(ids, True), is_node_killed=is_node_killed)
    counted.settle(180)
    counted.figures["seconds"] = round(time.monotonic() - start, 1)
    counted.figures["upstream calls repeated"] = world.asked_twice(ids)
    return counted


def broker_killed(world: Testbed, broker: Broker, tasks: int) -> Counted:
    """kill -9 of the broker in the middle, and its start."""
    world.start(MAX_PROCESS_NUM=IN_FLIGHT)

    def what() -> None:
        broker.kill()
        broker.start()
        broker.wait_ready()

    return crash(world, tasks, what)


def taken_over(world: Testbed, tasks: int) -> Counted:
    """kill -9 of the supervisor in the middle; another node is there."""
    # A task of which the end was announced is acked by the second node when the task's time is over.
    limits = {"MAX_PROCESS_NUM": IN_FLIGHT, "TASK_TIMEOUT": 90}
    first = world.start(**limits)
    world.start(**limits)

    def what() -> None:
        first.kill()
        first.wait_exit()
        first.wait_gone(5)

    return crash(world, tasks, what, is_node_killed=True)


def deafened(world: Testbed, broker: Broker, tasks: int, seconds: float) -> Counted:
    """The broker's process is stopped for a while: the library gives the connection up, and comes back."""
    world.start(MAX_PROCESS_NUM=IN_FLIGHT)

    def what() -> None:
        assert broker.pid is not None
        os.killpg(broker.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.killpg(broker.pid, signal.SIGCONT)

    return crash(world, tasks, what)


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("run", choices=("mix", "broker", "takeover", "deaf"))
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=65)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(find_or_get(), folder / "broker", port=free_port(), admin_port=free_port())
        with broker, open_testbed(broker, folder) as world:
            match given.run:
                case "mix":
                    counted = mix(world, given.tasks, given.seed, KILL_EVERY)
                case "broker":
                    counted = broker_killed(world, broker, given.tasks)
                case "takeover":
                    counted = taken_over(world, given.tasks)
                case _:
                    counted = deafened(world, broker, given.tasks, given.seconds)
            print(json.dumps(counted.figures, indent=1))
            counted.check()
            world.close_nodes()


if __name__ == "__main__":
    main()
