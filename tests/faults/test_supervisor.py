"""The supervisor killed, asked to stop, and asked twice: no process stays, no task is lost, no answer comes twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.testbed import Testbed, kill, one_end_each, patched
from tests.support.wait import until

GONE_WITHIN = 5.0  # seconds (spec 3)


def test_killed_its_processes_are_gone_and_the_next_node_serves_everything(build: Callable[..., Testbed]) -> None:
    testbed = build()
    platform = testbed.platform
    first = testbed.start()
    plain = [platform.ask({"gate": "held"}) for _ in range(10)]
    unseen = [platform.ask({"gate": "held"}, stream=True) for _ in range(5)]
    begun = [platform.ask({"gate_chunks": f"begun-{number}"}, stream=True) for number in range(3)]
    for number, id in enumerate(begun):
        testbed.upstream.release(f"begun-{number}", 1)
        testbed.gateway.wait_for_frames(id, 2)
    testbed.upstream.wait_for_waiting("held", 15)
    waiting = platform.ask_many([{"gate": "held"}] * 30)
    workers = first.workers()
    assert workers
    first.kill()
    first.wait_exit()
    first.wait_gone(GONE_WITHIN)
    testbed.upstream.open_gate("held")
    for number in range(len(begun)):
        testbed.upstream.open_gate(f"begun-{number}")
    testbed.start()
    platform.wait_balanced(timeout=120)
    for id in plain + unseen + waiting:
        answer = testbed.gateway.answer(id)
        assert answer.error is None
        assert not answer.faults, answer.faults
    # A second node that runs meanwhile ends these streams (test_two_nodes.py); here none is lost, and each has one end.
    one_end_each(testbed, begun)


def test_killed_the_moment_it_was_started_leaves_nothing(build: Callable[..., Testbed]) -> None:
    testbed = build()
    node = testbed.start(ready=False)
    until(node.tree, 20, "first child")
    node.kill()
    node.wait_exit()
    node.wait_gone(GONE_WITHIN)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_after_sigterm_it_takes_no_more_tasks_and_finishes_those_in_flight(
    number: signal.Signals, build: Callable[..., Testbed]
) -> None:
    testbed = build(MAX_PROCESS_NUM=8)
    platform = testbed.platform
    node = testbed.start()
    had = [platform.ask({"gate": "drain"}, stream=way) for way in (False, True) * 4]
    testbed.upstream.wait_for_waiting("drain", 8)
    node.signal(number)
    node.wait_log('"asked_to_stop"')
    assert "draining" in node.wait_not_ready()
    later = platform.ask_many(["later"] * 10)
    testbed.upstream.open_gate("drain")
    assert node.wait_exit(20) == 0
    node.wait_gone(2)
    for id in had:
        answer = testbed.answer(id)
        assert answer.error is None
        assert not answer.faults, answer.faults
        assert testbed.asked(id) == 1
    # At most the one that the library had fetched ahead was seen by this node; none was run.
    assert all(testbed.asked(id) == 0 for id in later)
    platform.wait_backlog(len(later))
    testbed.start()
    platform.wait_balanced()
    assert all(testbed.asked(id) == 1 for id in later)
    testbed.close_nodes()


def test_tasks_left_after_the_drain_are_nakd_and_started_streams_are_ended(build: Callable[..., Testbed]) -> None:
    testbed = build(DRAIN_TIMEOUT=1)
    platform = testbed.platform
    first = testbed.start()
    plain = [platform.ask({"gate": "over"}) for _ in range(6)]
    unseen = [platform.ask({"gate": "over"}, stream=True) for _ in range(3)]
    begun = [platform.ask({"gate_chunks": f"over-{number}"}, stream=True) for number in range(3)]
    for number, id in enumerate(begun):
        testbed.upstream.release(f"over-{number}", 2)
        testbed.gateway.wait_for_frames(id, 3)
    testbed.upstream.wait_for_waiting("over", 9)
    start = time.monotonic()
    first.sigterm()
    assert first.wait_exit(30) == 0
    assert time.monotonic() - start < 1 + 10
    first.wait_gone(2)
    named = json.loads(first.wait_log('"left_over"'))["requests"]
    assert sorted(named) == sorted(plain + unseen + begun)
    for id in begun:
        answer = testbed.answer(id, 2)
        assert answer.text == "wörd 0 wörd 1 "
        assert answer.error is not None
        assert answer.error["code"] == "stream_interrupted"
        assert answer.ends == 1
        assert testbed.last_record(id)["outcome"]["status"] == "broken"
    platform.wait_backlog(len(plain + unseen))
    for id in plain + unseen:
        (record,) = platform.records_of(id)
        assert (record["outcome"]["status"], record["outcome"]["decision"]) == ("drained", "nak")
    testbed.upstream.open_gate("over")
    testbed.start()
    platform.wait_balanced(timeout=40)
    for id in plain + unseen:
        answer = testbed.gateway.answer(id)
        assert answer.error is None
        assert not answer.faults, answer.faults
        assert testbed.asked(id) == 2
    testbed.close_nodes()


def test_a_second_signal_ends_it_at_once(build: Callable[..., Testbed]) -> None:
    testbed = build(DRAIN_TIMEOUT=60)
    node = testbed.start()
    ids = [testbed.platform.ask({"gate": "twice"}, stream=way) for way in (False, True)]
    testbed.upstream.wait_for_waiting("twice", 2)
    node.sigterm()
    node.wait_log('"asked_to_stop"')
    start = time.monotonic()
    node.sigterm()
    assert node.wait_exit(20) == 1
    assert time.monotonic() - start < 5
    node.wait_gone(GONE_WITHIN)
    testbed.upstream.open_gate("twice")
    testbed.start()
    for id in ids:
        assert testbed.answer(id).error is None
    testbed.platform.wait_balanced()
    testbed.close_nodes()


def test_sigterm_before_it_is_ready_stops_it(build: Callable[..., Testbed]) -> None:
    testbed = build(PULSAR_URL="pulsar://127.0.0.1:9")
    node = testbed.start(ready=False)
    node.wait_log("no connection to Pulsar", 40)
    start = time.monotonic()
    node.sigterm()
    assert node.wait_exit(20) == 0
    took = time.monotonic() - start
    node.wait_gone(2)
    assert took < 5, took


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_a_begun_stream_whose_worker_died_before_the_stop_is_ended_once_and_not_run_again(
    delay: float, build: Callable[..., Testbed]
) -> None:
    testbed = build(DRAIN_TIMEOUT=0, WORKER_PROCESSES=2, MAX_PROCESS_NUM=6)  # no slot is free for the ends
    platform, gateway = testbed.platform, testbed.gateway
    first = testbed.start()
    begun = [platform.ask({"gate_chunks": f"died-{delay}-{number}"}, stream=True) for number in range(6)]
    for number, id in enumerate(begun):
        testbed.upstream.release(f"died-{delay}-{number}", 2)
        gateway.wait_for_frames(id, 3)
    kill(first.workers()[0], signal.SIGKILL)
    time.sleep(delay)  # the moment of the stop is what this test is about: any is right
    first.sigterm()
    assert first.wait_exit(30) == 0
    for number in range(len(begun)):
        testbed.upstream.open_gate(f"died-{delay}-{number}")
    testbed.start()
    platform.wait_balanced(timeout=40)
    for id in begun:
        answer = testbed.answer(id, 2)
        assert answer.text == "wörd 0 wörd 1 "
        assert answer.error is not None
        assert answer.ends == 1
        assert testbed.asked(id) == 1
    testbed.close_nodes()


def test_no_process_is_left_when_it_exits(build: Callable[..., Testbed]) -> None:
    testbed = build()
    node = testbed.start()
    assert testbed.platform.ask_and_wait("hello").text
    node.sigterm()
    assert node.process.wait(30) == 0
    assert node.processes_left() == []


def test_a_second_signal_ends_it_while_its_main_thread_hangs_and_its_probes_show_that(
    build: Callable[..., Testbed], tmp_path: Path
) -> None:
    hangs = f"""
import os, time
from supervisor.node import Node
from supervisor.observability import status_server
status_server.LATE_AFTER, status_server.HANGS_AFTER = 2.0, 4.0  # instead of 5 and 15 s
turn = Node.turn
def hang(node, ready):
    while os.path.exists({str(tmp_path / "hang")!r}):
        time.sleep(0.1)
    turn(node, ready)
Node.turn = hang
"""
    testbed = build()
    node = testbed.start(command=patched(tmp_path, hangs))
    assert node.status("/livez")[0] == 200
    (tmp_path / "hang").touch()
    assert "has not turned" in node.wait_not_ready()
    until(lambda: node.status("/livez")[0] == 503, 20, "503 of /livez")
    (tmp_path / "hang").unlink()
    node.wait_ready()
    assert node.status("/livez")[0] == 200
    (tmp_path / "hang").touch()
    node.wait_not_ready()
    node.sigterm()
    node.sigterm()
    until(lambda: not node.running or bool(node.sigterm()), 20, "end")
    assert node.process.wait(1) == 1
    assert node.processes_left() == []


def test_a_reading_of_the_machine_that_blocks_stops_nothing(build: Callable[..., Testbed], tmp_path: Path) -> None:
    blocks = """
import time
from supervisor.machine.resources import Sampler
calls, sample = iter(range(2)), Sampler.sample
def block(sampler):
    if next(calls, None) is None:
        time.sleep(600)
    return sample(sampler)
Sampler.sample = block
"""
    testbed = build()
    node = testbed.start(command=patched(tmp_path, blocks))
    ids = testbed.platform.ask_many(["hello"] * 10)
    testbed.platform.wait_balanced()
    one_end_each(testbed, ids)
    node.sigterm()
    assert node.wait_exit(20) == 0
