"""supervisor/upstream/model_list.py: what is asked, over which way, and what the answer is taken for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.ports import free_port
from supervisor.upstream import ModelList, listed_models
from tests.support.check import KEY, Api, context

TIME_LIMIT = 10.0  # seconds


@pytest.fixture
def api() -> Iterator[Api]:
    one = Api()
    yield one
    one.close()


def test_the_list_is_asked_with_the_key_and_without(api: Api) -> None:
    models = ModelList(context(API_URL=api.url).settings)
    assert models.ask(TIME_LIMIT).status == 200
    assert models.ask(TIME_LIMIT, with_key=False).status == 401
    assert models.ask(TIME_LIMIT, model="a/b").status == 200
    assert api.seen == [("/v1/models", f"Bearer {KEY}"), ("/v1/models", None), ("/v1/models/a%2Fb", f"Bearer {KEY}")]


def test_the_environments_proxy_and_netrc_are_not_used(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    models = ModelList(context(API_URL=api.url).settings)
    assert models.ask(TIME_LIMIT).status == 200
    assert api.seen == [("/v1/models", f"Bearer {KEY}")]


def test_a_redirect_is_an_answer_and_is_not_followed(api: Api) -> None:
    api.status = 302
    assert ModelList(context(API_URL=api.url).settings).ask(TIME_LIMIT).status == 302
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data": [{"id": "a"}, {"id": 7}, 3, {"id": ""}, {"id": "b"}]}', ("a", "b")),
        (b"<html>", ()), (b"[" * 100_000, ()), (b'{"data": 7}', ()), (b"[]", ()), (b"\xff", ()),
    ],
)  # fmt: skip
def test_the_names_in_a_list(body: bytes, names: tuple[str, ...]) -> None:
    assert listed_models(body) == names


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("https://h/v1", "https://h/v1/models"),
        ("https://h/openai/deployments/gpt/chat/completions?api-version=1", "https://h/openai/models?api-version=1"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/models"),
    ],
)
def test_where_the_list_is(given: str, asked: str) -> None:
    assert ModelList(context(API_URL=given).settings).address.geturl() == asked
