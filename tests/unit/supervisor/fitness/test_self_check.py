"""supervisor/fitness/self_check.py: when a chat request of the node's own is sent, and what its answer shows."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator

import pytest

from devstack.ports import free_port
from supervisor.events import SelfChecked
from supervisor.fitness import self_check
from tests.support.check import KEY, context
from tests.support.upstream import FakeUpstream
from workernode.protocol import FaultKind
from workernode.settings import Settings
from workernode.upstream import upstream_target

REFUSED = {"status": 401, "err_type": "invalid_request_error", "err_code": "invalid_api_key", "err_msg": "no"}


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeUpstream]:
    monkeypatch.setattr(self_check, "REPEAT_AFTER", 0.0)
    monkeypatch.setattr(self_check, "TIME_LIMIT", 2.0)
    one = FakeUpstream()
    one.models = ["gpt-4o"]
    yield one
    one.close()


def settings_for(url: str, **variables: str) -> Settings:
    return context(API_URL=url, **variables).settings


def checked(url: str, **variables: str) -> FaultKind | None:
    settings = settings_for(url, **variables)
    before = time.monotonic()
    first: list[SelfChecked] = []
    seen = self_check.self_check(settings, upstream_target(settings), first.append)
    assert [one.is_first_refusal for one in first] == [True] * len(first)
    assert seen.asked_at >= before
    return seen.fault.kind if seen.fault else None


def test_the_request_asks_the_nodes_model_for_one_token_with_its_key(upstream: FakeUpstream) -> None:
    assert checked(upstream.api_url, UPSTREAM_MODEL="gpt-4o-mini") is None
    (asked,) = upstream.requests
    body = json.loads(asked.body)
    assert (body["model"], body["max_tokens"], len(body["messages"])) == ("gpt-4o-mini", 1, 1)
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_a_refusal_is_believed_after_the_second_one(upstream: FakeUpstream) -> None:
    upstream.mode = REFUSED
    assert checked(upstream.api_url) is FaultKind.KEY
    assert len(upstream.requests) == 2


def test_a_refusal_that_passes_shows_that_upstream_answers(upstream: FakeUpstream) -> None:
    upstream.script(lambda exchange: REFUSED if len(upstream.requests) == 1 else None)
    assert checked(upstream.api_url) is None


def test_two_refusals_of_different_kinds_show_nothing(upstream: FakeUpstream) -> None:
    upstream.script(lambda exchange: REFUSED if len(upstream.requests) == 1 else {"status": 403, "html": True})
    assert checked(upstream.api_url) is FaultKind.PASSING


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ({"status": 500}, FaultKind.PASSING),
        ({"status": 503}, FaultKind.UNAVAILABLE),
        ({"status": 429, "err_code": "rate_limit_exceeded"}, FaultKind.RATE_LIMIT),
        ({"status": 400, "err_code": "unsupported_parameter"}, FaultKind.CLIENT),
        ({"html": True}, FaultKind.ADDRESS),
        ({"raw": '{"base_resp": {"status_code": 1004, "status_msg": "no"}}'}, FaultKind.KEY),
        ({"reset": True}, FaultKind.PASSING),
    ],
    ids=["500", "503", "429", "400", "page with 200", "error with 200", "reset"],
)
def test_the_answer_is_read_like_a_tasks(mode: dict[str, object], kind: FaultKind, upstream: FakeUpstream) -> None:
    upstream.mode = mode
    assert checked(upstream.api_url) is kind


def test_an_upstream_where_nothing_listens_is_away() -> None:
    assert checked(f"http://127.0.0.1:{free_port()}/v1") is FaultKind.UNAVAILABLE


# at the start


def is_list_refused(url: str) -> bool:
    settings = settings_for(url)
    return self_check.is_list_refused(settings, upstream_target(settings))


def test_a_list_with_the_model_is_no_reason_to_check(upstream: FakeUpstream) -> None:
    assert not is_list_refused(upstream.api_url)
    assert upstream.requests == []


def test_a_list_that_refuses_the_key_is_a_reason_to_check(upstream: FakeUpstream) -> None:
    upstream.only_key = "another"
    assert is_list_refused(upstream.api_url)


def test_an_upstream_that_is_away_is_no_reason_to_check() -> None:
    assert not is_list_refused(f"http://127.0.0.1:{free_port()}/v1")


def started(upstream: FakeUpstream, at_start: bool) -> SelfChecked:
    settings = settings_for(upstream.api_url)
    results: queue.Queue[SelfChecked] = queue.Queue()
    self_check.start_self_check(settings, upstream_target(settings), at_start, results.put)
    return results.get(timeout=10)


def test_a_key_that_may_chat_and_not_list_is_a_good_key(upstream: FakeUpstream) -> None:
    upstream.mode = {"status": 401}  # so the list answers
    upstream.script(lambda exchange: {"status": 200})
    assert started(upstream, at_start=True).fault is None


def test_a_suspect_node_does_not_ask_for_the_list(upstream: FakeUpstream) -> None:
    assert started(upstream, at_start=False).fault is None
    assert (len(upstream.requests), upstream.other_requests) == (1, [])
