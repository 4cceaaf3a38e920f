"""The controller of the cap, with made-up readings of the machine; the clock is in the readings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count

import pytest

from supervisor.concurrency import ConcurrencyController
from supervisor.machine import Resources
from supervisor.readings import Gpu
from supervisor.states import CAP_REASONS
from workernode import settings

REMOTE = {
    "NODE_TYPE": "remote", "MODEL_NAME": "m", "PULSAR_URL": "pulsar://localhost", "API_URL": "http://api",
    "API_KEY": "key",
}  # fmt: skip
LOCAL = {"NODE_TYPE": "local", "MODEL_NAME": "m", "PULSAR_URL": "pulsar://localhost", "LOCAL_PARALLEL": "6"}


class Machine:
    """Readings that are a second apart."""

    def __init__(self) -> None:
        self.cpu_percent = self.memory_percent = self.gpu_percent = 50.0
        self._seconds: Iterator[int] = count(100)

    def read(self) -> Resources:
        at = float(next(self._seconds))
        gpus = (Gpu("0", "card", int(self.gpu_percent * 10), 1000),)
        return Resources(at, self.cpu_percent, 2.0, self.memory_percent, 1 << 30, 2 << 30, "host", gpus)


def controller(variables: dict[str, str], machine: Machine | None = None, **more: str) -> ConcurrencyController:
    return ConcurrencyController(settings.load({**variables, **more}), (machine or Machine()).read)


def test_a_remote_node_starts_at_max_process_num_and_a_local_one_at_its_slots() -> None:
    assert controller(REMOTE, MAX_PROCESS_NUM="20").cap == 20
    assert controller(LOCAL, MAX_PROCESS_NUM="20").cap == 6
    assert controller(LOCAL, MAX_PROCESS_NUM="3").cap == 3
    assert controller(LOCAL).why == CAP_REASONS["start"]


def test_the_slots_of_the_model_server_replace_those_that_it_was_asked_to_have() -> None:
    one = controller(LOCAL, MAX_PROCESS_NUM="20")
    one.set_slots(2)
    assert one.cap == 2
    one.set_slots(50)
    assert one.cap == 20
    one.set_slots(0)
    assert one.cap == 1


def test_a_restarted_model_with_the_same_slots_keeps_the_cap() -> None:
    machine = Machine()
    one = controller(LOCAL, machine)
    machine.memory_percent = 99.0
    one.sample(6, 0)
    assert one.cap == 4
    one.set_slots(6)
    assert one.cap == 4
    assert one.code == "memory"


def test_a_move_is_logged_with_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    one = controller(REMOTE, machine, MAX_PROCESS_NUM="10")
    machine.memory_percent = 99.0
    with caplog.at_level(logging.INFO):
        one.sample(10, 0)
    record = caplog.records[-1]
    assert vars(record)["event"] == "cap_changed"
    assert (vars(record)["old"], vars(record)["new"], vars(record)["code"]) == (10, 7, "memory")
    assert one.resources.memory_percent == 99.0


def test_it_reports_whether_tokens_came_since_the_last_sample() -> None:
    one = controller(REMOTE)
    assert not one.sample(1, 0)
    assert one.sample(1, 5)
    assert not one.sample(1, 5)


def tokens_at(level: int) -> float:
    """Any number of tasks in flight gives 24 tokens a second."""
    return 24.0 if level else 0.0


def test_with_a_full_cpu_and_waiting_tasks_it_tries_fewer() -> None:
    machine = Machine()
    machine.cpu_percent = 100.0
    one, tokens = controller(LOCAL, machine), 0.0
    for _ in range(60):
        one.was_full()
        tokens += tokens_at(one.cap)
        one.sample(one.cap, tokens)
    assert one.cap < 6


def test_without_waiting_tasks_it_tries_nothing() -> None:
    machine = Machine()
    machine.cpu_percent = 100.0
    one, tokens = controller(LOCAL, machine), 0.0
    for _ in range(60):
        tokens += tokens_at(one.cap)
        one.sample(one.cap, tokens)
    assert one.cap == 6


def test_a_reading_that_was_seen_before_moves_nothing_and_loses_no_token() -> None:
    machine = Machine()
    one = controller(LOCAL, machine)
    machine.memory_percent = 99.0
    reading = machine.read()
    machine.read = lambda: reading  # type: ignore[method-assign]
    one._read_machine = machine.read
    assert one.sample(6, 10)
    assert one.cap == 4
    assert not one.sample(6, 10)
    assert one.sample(4, 20)
    assert one.cap == 4


def test_a_gpu_whose_memory_the_tasks_fill_lowers_the_cap_and_one_that_the_model_fills_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine()
    one = controller(LOCAL, machine)
    one.sample(0, 0)
    machine.gpu_percent = 95.0  # the model loads
    one.sample(0, 0)
    one.set_slots(6)
    for _ in range(20):
        one.sample(6, 0)
    assert one.cap == 6
    machine.gpu_percent = 98.0
    with caplog.at_level(logging.INFO):
        one.sample(6, 0)
    assert (one.cap, one.code) == (4, "memory")
    assert "memory of GPU 0 98 % is above MEMORY_HIGH 90 %" in caplog.text
    for _ in range(100):  # it stays: fewer tasks would not free it
        one.sample(4, 0)
    assert (one.cap, one.code) == (6, "memory_free")
