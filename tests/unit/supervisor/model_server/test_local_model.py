"""The local model as the node sees it: when it sleeps, what wakes it, and which tasks wait for it."""

from __future__ import annotations

from unittest import mock

import pytest

from supervisor.model_server import local_model
from supervisor.model_server.http_api import ServerInfo
from supervisor.model_server.local_model import LocalModel
from supervisor.model_server.model_server import Event, EventKind
from supervisor.states import ModelServerState
from workernode import settings

VARIABLES = {"NODE_TYPE": "local", "MODEL_NAME": "gemma", "PULSAR_URL": "pulsar://localhost"}
IDLE_STOP = 900.0


class FakeServer:
    """A model server whose state the test sets, and which notes what it is asked to do."""

    def __init__(self, *_: object) -> None:
        self.state = ModelServerState.STARTING
        self.info = ServerInfo(slots=4)
        self.events: list[Event] = []
        self.asked: list[str] = []
        self.waiting = 0

    @property
    def is_asleep(self) -> bool:
        return self.state in (ModelServerState.FALLING_ASLEEP, ModelServerState.ASLEEP)

    def tick(self, _: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def next_wakeup(self) -> None:
        return None

    def diagnosis(self) -> None:
        return None

    def wrong_model(self) -> None:
        return None

    def sleep(self, _: float) -> None:
        self.asked.append("sleep")
        self.state = ModelServerState.FALLING_ASLEEP

    def wake(self, _: float) -> None:
        self.asked.append("wake")
        self.state = ModelServerState.STARTING

    def became(self, state: ModelServerState, *kinds: EventKind) -> None:
        self.state = state
        self.events = [Event(kind) for kind in kinds]


def made(monkeypatch: pytest.MonkeyPatch, idle_stop: str = "15m") -> tuple[LocalModel, FakeServer]:
    """A local model that has just become ready, at the moment 0."""
    monkeypatch.setattr(local_model, "ModelServer", FakeServer)
    variables = {**VARIABLES, "LOCAL_IDLE_STOP": idle_stop}
    model = LocalModel(settings.load(variables), mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock(), {})
    server = model.server
    assert isinstance(server, FakeServer)
    server.became(ModelServerState.READY, EventKind.READY)
    model.tick(0.0, 0)
    return model, server


def test_it_sleeps_after_the_idle_time_and_a_task_begins_that_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, server = made(monkeypatch)
    assert model.next_tick() == IDLE_STOP
    model.tick(800.0, 1)
    assert model.next_tick() == float("inf")
    model.tick(801.0, 0)
    model.tick(801.0 + IDLE_STOP - 0.1, 0)
    assert (server.asked, model.is_ready) == ([], True)
    model.tick(801.0 + IDLE_STOP, 0)
    assert (server.asked, model.is_ready, model.is_asleep) == (["sleep"], False, True)
    model.tick(9_000.0, 0)
    assert server.asked == ["sleep"]


def test_without_the_setting_it_never_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, server = made(monkeypatch, "off")
    model.tick(1e9, 0)
    assert (server.asked, model.next_tick()) == ([], float("inf"))


@pytest.mark.parametrize("state", [ModelServerState.FALLING_ASLEEP, ModelServerState.ASLEEP])
def test_the_first_task_wakes_it_and_tasks_wait_until_it_is_ready(
    state: ModelServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, server = made(monkeypatch)
    assert model.request(1.0)
    model.tick(IDLE_STOP, 0)
    server.state = state
    assert not model.request(1000.0)
    assert (model.is_asleep, model.is_ready) == (False, False)
    assert "waking up" in model.why_not_ready()
    assert not model.request(1001.0)
    assert server.asked == ["sleep", "wake"]
    server.became(ModelServerState.READY, EventKind.READY)
    model.tick(1010.0, 1)
    assert model.request(1010.0)
    assert (model.is_asleep, model.is_ready) == (False, True)


@pytest.mark.parametrize("state", [ModelServerState.BACKOFF, ModelServerState.FAILED])
def test_where_it_does_not_wake_the_tasks_wait_no_more(
    state: ModelServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, server = made(monkeypatch)
    model.tick(IDLE_STOP, 0)
    server.state = ModelServerState.ASLEEP
    model.request(1000.0)
    server.became(state)
    model.tick(1001.0, 1)
    assert model.request(1001.0)  # its call upstream fails, and the task goes back to the broker
    assert not model.is_asleep
    assert "waking" not in model.why_not_ready()


def test_the_idle_time_counts_from_the_moment_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    model, server = made(monkeypatch)
    server.became(ModelServerState.BACKOFF, EventKind.DOWN)
    model.tick(100.0, 0)
    assert model.next_tick() == float("inf")
    server.became(ModelServerState.READY, EventKind.READY)
    model.tick(5_000.0, 0)
    assert (server.asked, model.next_tick()) == ([], 5_000.0 + IDLE_STOP)
