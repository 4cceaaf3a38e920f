"""supervisor/fitness/own_question.py: what the list of models says of key, model and address."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from supervisor.events import ModelListSeen
from supervisor.fitness import own_question
from tests.support.check import KEY, Api, closed_port, context
from workernode.protocol import FaultKind
from workernode.upstream import upstream_target


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(own_question, "REPEAT_AFTER", 0.0)
    one = Api()
    yield one
    one.close()


def seen(url: str, repeat: bool = False, **variables: str) -> ModelListSeen:
    settings = context(API_URL=url, **variables).settings
    return own_question.ask_list(settings, upstream_target(settings), repeat=repeat)


def test_a_list_that_needs_the_key_and_has_the_model_speaks_for_the_node(api: Api) -> None:
    assert seen(api.url) == ModelListSeen(None, needs_key=True, is_list=True, has_model=True)


def test_a_list_that_everybody_sees_says_nothing_of_the_key(api: Api) -> None:
    api.open = True
    assert seen(api.url) == ModelListSeen(None, needs_key=False, is_list=True, has_model=True)


def test_a_refused_key_is_asked_about_twice_where_that_is_wanted(api: Api) -> None:
    api.status, api.body = 401, json.dumps({"error": {"message": "no", "code": "invalid_api_key"}}).encode()
    once, twice = seen(api.url), seen(api.url, repeat=True)
    assert once.fault is not None
    assert twice.fault is not None
    assert (once.fault.kind, once.is_repeated) == (FaultKind.KEY, False)
    assert (twice.fault.kind, twice.is_repeated) == (FaultKind.KEY, True)
    assert [key for _, key in api.seen] == [f"Bearer {KEY}"] * 3


def test_a_page_instead_of_a_list_says_that_no_api_is_there(api: Api) -> None:
    api.status, api.body = 404, b"<html>"
    fault = seen(api.url).fault
    assert fault is not None
    assert fault.kind is FaultKind.ADDRESS


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_upstream_that_fails_says_nothing(api: Api, status: int) -> None:
    api.status = status
    assert seen(api.url) == ModelListSeen()


def test_an_upstream_that_is_away_says_nothing() -> None:
    assert seen(f"http://127.0.0.1:{closed_port()}") == ModelListSeen()
