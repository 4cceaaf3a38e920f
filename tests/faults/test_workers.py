"""Worker processes killed, stopped and poisoned under load: the clients get their answer, or one error."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.testbed import Testbed, kill, one_end_each, patched, plug, wait_workers
from tests.support.wait import until

WORKERS = 3
POISON = "kills-its-worker"


@pytest.fixture(scope="module")
def testbed(build: Callable[..., Testbed]) -> Testbed:
    """One node with three workers."""
    one = build(WORKER_PROCESSES=WORKERS, MAX_PROCESS_NUM=48)
    one.start()
    return one


def test_workers_killed_one_each_in_turn_and_all_at_once_under_load(testbed: Testbed) -> None:
    """Whatever is killed, every task is answered once; a stream that had begun ends with an error."""
    platform, node = testbed.platform, testbed.node
    slow = {"latency_ms": 300}
    plain = platform.ask_many([slow] * 120)
    streams = platform.ask_many([{"chunk_ms": 40, "chunks": 8}] * 120, stream=True)
    killed: list[int] = []
    for turn in ("one", "each", "each", "each", "all"):
        workers = wait_workers(node, WORKERS, killed)
        victims = workers if turn == "all" else [random.choice(workers)] if turn == "one" else workers[:1]
        testbed.upstream.wait_until(lambda: testbed.upstream.inflight > 10, 30, "load")
        killed += [pid for pid in victims if kill(pid, signal.SIGKILL)]
    platform.wait_balanced(plain + streams, 60)
    wait_workers(node, WORKERS, killed)
    one_end_each(testbed, plain + streams)
    for id in plain:
        assert testbed.gateway.answer(id).error is None
    cut = [id for id in streams if testbed.gateway.answer(id).error]
    for id in streams:
        _whole_or_cut(testbed, id, 8)
    died = [line for line in node.logs() if line.get("event") == "worker_died"]
    assert len(died) == len(killed) == 7
    assert all("SIGKILL" in line["why"] for line in died)
    print(f"{len(killed)} workers killed, {len(plain + streams)} tasks, {len(cut)} streams cut, "
          f"{testbed.asked_twice(plain + streams)} calls repeated")  # fmt: skip


def test_killed_after_its_client_saw_a_chunk_one_error_and_one_end(testbed: Testbed) -> None:
    id = testbed.platform.ask({"gate_chunks": "seen", "chunks": 5}, stream=True)
    testbed.upstream.release("seen", 2)
    testbed.gateway.wait_for_frames(id, 3)
    for pid in testbed.node.workers():
        kill(pid, signal.SIGKILL)
    answer = testbed.answer(id)
    assert [frame.has_data for frame in answer.frames] == [True] * 4 + [False]
    assert answer.text == "wörd 0 wörd 1 "  # nothing twice
    assert answer.error is not None
    assert answer.error["code"] == "stream_interrupted"
    assert answer.ends == 1
    record = testbed.last_record(id)
    assert (record["outcome"]["status"], record["outcome"]["decision"]) == ("broken", "ack")
    assert testbed.asked(id) == 1
    testbed.upstream.open_gate("seen")
    testbed.platform.wait_backlog(0)


@pytest.mark.parametrize("way", [False, True], ids=["plain", "stream"])
def test_killed_before_its_client_saw_anything_served_whole(way: bool, testbed: Testbed) -> None:
    gate = f"unseen-{way}"
    id = testbed.platform.ask({"gate": gate, "chunks": 5}, stream=way)
    testbed.upstream.wait_for_waiting(gate)
    for pid in testbed.node.workers():
        kill(pid, signal.SIGKILL)
    testbed.upstream.open_gate(gate)
    answer = testbed.answer(id)
    assert answer.error is None
    assert answer.text.startswith("wörd")
    assert not answer.faults, answer.faults
    assert testbed.asked(id) == 2
    assert testbed.naks(id) == 1
    assert testbed.last_record(id)["redeliveries"] == 1


def test_a_task_whose_worker_is_killed_from_outside_again_and_again_is_answered(
    build: Callable[..., Testbed]
) -> None:
    """It runs alone, and its worker is killed more often than MAX_REDELIVERIES would allow."""
    testbed = build(WORKER_PROCESSES=1, MAX_REDELIVERIES=1)
    node = testbed.start()
    id = testbed.platform.ask({"gate": "outside"})
    killed: list[int] = []
    for count in range(1, 4):
        until(lambda count=count: testbed.asked(id) == count, 40, "the task at upstream")  # type: ignore[misc]
        killed += wait_workers(node, 1, killed)
        kill(killed[-1], signal.SIGKILL)
    testbed.upstream.open_gate("outside")
    assert testbed.answer(id).error is None
    record = testbed.last_record(id)
    assert (record["outcome"]["status"], record["redeliveries"]) == ("answered", 3)
    assert testbed.platform.dead_letters() == []
    died = [line["why"] for line in node.logs() if line.get("event") == "worker_died"]
    assert died == ["killed by SIGKILL from outside"] * 3
    testbed.close_nodes()


def test_a_stopped_worker_is_noticed_killed_and_replaced(build: Callable[..., Testbed]) -> None:
    """Its tasks go to others, a begun stream is ended; the other worker serves all the while."""
    testbed = build(WORKER_PROCESSES=2, MAX_PROCESS_NUM=4)
    node = testbed.start()
    plain = [testbed.platform.ask({"gate": "stopped"}) for _ in range(2)]
    streams = [testbed.platform.ask({"gate_chunks": "begun"}, stream=True) for _ in range(2)]
    testbed.upstream.wait_for_waiting("begun", 2)
    testbed.upstream.release("begun", 2)
    for id in streams:
        testbed.gateway.wait_for_frames(id, 2)
    testbed.upstream.wait_for_waiting("stopped", 2)
    workers = node.workers()
    stopped = workers[0]
    kill(stopped, signal.SIGSTOP)
    testbed.upstream.open_gate("stopped")
    testbed.upstream.open_gate("begun")
    assert testbed.platform.ask_and_wait("meanwhile").text
    node.wait_log("no sign of life", 30)
    wait_workers(node, 2, [stopped])
    for id in plain + streams:
        testbed.answer(id)
    one_end_each(testbed, plain + streams)
    assert all(testbed.gateway.answer(id).error is None for id in plain)
    cut = [id for id in streams if testbed.gateway.answer(id).error]
    for id in streams:
        _whole_or_cut(testbed, id, 5)
    assert len(cut) == 1
    testbed.platform.wait_backlog(0)
    testbed.close_nodes()


def test_workers_that_die_at_once_are_restarted_and_reported(
    build: Callable[..., Testbed], tmp_path: Path
) -> None:
    flag = tmp_path / "die"
    flag.touch()
    testbed = build(WORKER_PROCESSES=1)
    node = testbed.start(False, PYTHONPATH=plug(tmp_path, f"if os.path.exists({str(flag)!r}):\n    os._exit(7)"))
    id = testbed.platform.ask("hello")
    report = node.wait_log("GeneralError", 30)
    assert "exit code 7" in report
    assert "worker processes die" in report
    flag.unlink()
    assert testbed.answer(id).error is None
    node.wait_ready()
    crashes = [line["crashes"] for line in node.logs() if line.get("event") == "worker_died"]
    assert crashes == list(range(1, len(crashes) + 1))  # the pause after each is the pool's (unit tests)
    assert len(crashes) >= 4
    assert node.log_lines.count(report) == 1
    testbed.close_nodes()


def test_workers_that_die_while_they_are_started_do_not_take_the_node_along(
    build: Callable[..., Testbed], tmp_path: Path
) -> None:
    fails_to_start = """
from multiprocessing.context import ForkServerProcess
births, start = iter(range(3)), ForkServerProcess.start
def die(process):
    if next(births, None) is None:
        return start(process)
    raise BrokenPipeError  # what start raises if the child is killed before it has read its orders
ForkServerProcess.start = die
"""
    testbed = build(WORKER_PROCESSES=2)
    node = testbed.start(command=patched(tmp_path, fails_to_start))
    assert testbed.platform.ask_and_wait("hello").text
    wait_workers(node, 2)
    died = [line["why"] for line in node.logs() if line.get("event") == "worker_died"]
    assert died == ["it could not be started (the fork server is gone)"] * 3
    testbed.close_nodes()


@pytest.mark.parametrize("way", [False, True], ids=["plain", "stream"])
def test_a_task_that_kills_its_worker_each_time_is_dead_lettered_and_its_client_gets_an_error(
    way: bool, build: Callable[..., Testbed], tmp_path: Path
) -> None:
    testbed = build(WORKER_PROCESSES=2, MAX_REDELIVERIES=2)
    node = testbed.start(
        PYTHONPATH=plug(
            tmp_path,
            f"""
from workernode import chat_request
real = chat_request.for_upstream
def deadly(data, **more):
    if {POISON!r} in str(data):
        os._exit(9)
    return real(data, **more)
chat_request.for_upstream = deadly
""",
        )
    )
    slow = {"latency_ms": 2000}  # a stream that had begun would be cut by the first death, and rightly so
    good = [testbed.platform.ask(slow, stream=other) for other in (False, True) * 2]
    id = testbed.platform.ask(POISON, stream=way)
    good += [testbed.platform.ask(slow, stream=other) for other in (False, True) * 4]
    (letter,) = testbed.platform.wait_dead_letters(1, 40)
    assert letter.properties["request_id"] == id
    assert "worker process died 3 times" in letter.properties["reason"]
    assert POISON in letter.payload.decode()
    answer = testbed.answer(id)
    assert answer.error is not None
    assert answer.error["code"] == "worker_died"
    assert answer.ends == (1 if way else 0)
    for one in good:  # those that shared its workers are not taken for it
        assert testbed.answer(one).error is None
    testbed.platform.wait_balanced()
    assert len(testbed.platform.dead_letters()) == 1
    assert testbed.naks(id) == 2
    assert testbed.last_record(id)["outcome"]["decision"] == "dead_letter"
    assert len([line for line in node.logs() if line.get("event") == "worker_died"]) == 3
    testbed.close_nodes()


def _whole_or_cut(testbed: Testbed, id: str, chunks: int) -> None:
    """What a client may see of a stream: all of it, or a beginning of it and an error; nothing twice."""
    answer = testbed.gateway.answer(id)
    whole = "".join(f"wörd {number} " for number in range(chunks))
    if answer.error is None:
        assert answer.text == whole
    else:
        assert whole.startswith(answer.text)
        assert sum("error" in (chunk or {}) for chunk in answer.chunks) == 1


def test_all_is_well_in_the_end(testbed: Testbed) -> None:
    """The node that lost so many workers serves as before, and nothing is left."""
    assert testbed.platform.ask_and_wait("hello").text
    testbed.platform.wait_balanced()
    until(lambda: testbed.node.status()[0] == 200, 20, "ready node")
