"""What upstream is asked for one task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workernode.chat_request import chat_request
from workernode.settings import Settings, load
from workernode.task import Task, read_endpoint

VARIABLES = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "m",
    "API_URL": "http://127.0.0.1:9/v1",
    "API_KEY": "k",
    "PULSAR_URL": "pulsar://127.0.0.1",
}
SETTINGS = load(VARIABLES)


def task(stream: bool = True, **data: Any) -> Task:
    return Task("r", stream, read_endpoint("http://gw/res"), {"messages": [], **data}, {})


def ask(one: Task, settings: Settings = SETTINGS) -> Any:
    return chat_request(one, one.data, settings, 7.0)


def test_a_stream_can_be_asked_for_without_stream_options() -> None:
    request = ask(task())
    assert json.loads(request.body)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in json.loads(request.body_without_options())
    assert ask(task(stream=False)).body_without_options is None


def test_what_is_asked_may_stand_in_the_place_of_the_clients_request() -> None:
    one = task(model="m")
    request = chat_request(one, {"model": "m", "messages": [1]}, SETTINGS, 7.0)
    assert (json.loads(request.body)["messages"], one.data["messages"], request.deadline) == ([1], [], 7.0)


@pytest.mark.parametrize(
    ("model", "upstream_model", "own"),
    [("m", "", True), (None, "", True), ("gpt-99", "", False), ("gpt-99", "served", True)],
)
def test_a_model_is_the_nodes_own_if_the_node_chose_it(model: str | None, upstream_model: str, own: bool) -> None:
    settings = load({**VARIABLES, "UPSTREAM_MODEL": upstream_model})
    assert ask(task(model=model), settings).is_own_model is own


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (3, 3), (0, 1), ("2", 1)])
def test_the_number_of_choices_is_what_the_client_asked_for(n: Any, choices: int) -> None:
    assert ask(task(n=n)).choices == choices


def test_the_clients_wish_for_usage_is_known() -> None:
    assert ask(task(stream_options={"include_usage": True})).with_usage
    assert not ask(task()).with_usage


def test_a_local_model_is_asked_to_keep_the_prompt_for_the_next_turn() -> None:
    local = load({"NODE_TYPE": "local", "MODEL_NAME": "m", "PULSAR_URL": "pulsar://127.0.0.1"})
    assert json.loads(ask(task(), local).body)["cache_prompt"] is True
    assert json.loads(ask(task(), local).body_without_options())["cache_prompt"] is True
    assert json.loads(ask(task(cache_prompt=False), local).body)["cache_prompt"] is False
    assert "cache_prompt" not in json.loads(ask(task()).body)
