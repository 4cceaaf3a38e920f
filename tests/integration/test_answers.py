"""The whole way, on the real broker: what a client gets, and what is left of its task in the broker and the books."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from devstack.broker import Broker
from supervisor.records.sums import Sums
from tests.faults.testbed import Testbed, open_testbed
from tests.support.gateway import Answer
from tests.support.node import ROOT
from tests.support.wait import until

VALIDATOR = Draft202012Validator(json.loads((ROOT / "docs" / "record.schema.json").read_text(encoding="utf-8")))
WORDS = "".join(f"wörd {number} " for number in range(5))


@pytest.fixture(scope="module")
def shared(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A testbed with a node in it, for the module."""
    with open_testbed(broker, tmp_path_factory.mktemp("testbed"), TASK_TIMEOUT=30, NAK_DELAY=0.1) as one:
        one.start()
        yield one


@pytest.fixture
def here(shared: Testbed) -> Iterator[Testbed]:
    """The same; what is left of its tasks is nothing, and its log is shown where a test failed."""
    before = len(shared.platform.asked)
    yield shared
    print(shared.node.tail())
    shared.platform.wait_backlog(0)
    counts = [record["request_id"] for record in shared.platform.records()]
    assert [id for id in shared.platform.asked[before:] if counts.count(id) != 1] == [], "not one record each"


def settled(testbed: Testbed, id: str) -> tuple[Answer, dict[str, Any]]:
    """The answer of a task, which came exactly once, and its only record, which is valid; the message is acked."""
    answer = testbed.answer(id)
    testbed.platform.wait_balanced([id])
    record = testbed.platform.record_of(id)
    VALIDATOR.validate(record)
    assert answer.faults == []
    return answer, record


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


# --- answered (issue 3, 2) ---


@both
def test_an_answer_reaches_the_gateway_unchanged_once_and_is_acked_and_recorded(here: Testbed, stream: bool) -> None:
    id = here.platform.ask("hello", stream, stream_options={"include_usage": True} if stream else None, temperature=0.7)
    answer, record = settled(here, id)
    (asked,) = [one for one in here.upstream.requests if one.headers["x-client-request-id"] == id]
    assert answer.raw_chunks == asked.events
    assert answer.ends == int(stream)
    assert record["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert (record["usage_source"], record["attempts"], record["redeliveries"]) == ("upstream", 1, 0)
    assert record["outcome"] == {
        "status": "answered", "decision": "ack", "end_reason": "stop", "http_status": 200, "error": None,
    }  # fmt: skip
    moments = list(record["timestamps"].values())
    assert None not in moments
    assert moments[1:] == sorted(moments[1:])
    assert None not in record["durations_ms"].values()
    assert record["client"]["user_agent"] == "test-client/1.0"
    assert (record["request"]["temperature"], record["request"]["stream"]) == (0.7, stream)
    assert record["attempt_id"].startswith(f"{id}/")


def test_a_streams_chunks_arrive_one_by_one_as_upstream_sends_them(here: Testbed) -> None:
    """The first is at the gateway before the second leaves upstream, and so on to the end."""
    gate = uuid.uuid4().hex
    id = here.platform.ask({"gate_chunks": gate, "chunks": 3}, stream=True)
    for number in range(1, 5):
        frames = here.gateway.wait_for_frames(id, number)
        here.upstream.wait_for_waiting(gate)
        assert len(frames) == number
        (asked,) = [one for one in here.upstream.requests if one.headers["x-client-request-id"] == id]
        assert len(asked.sent) == number
        here.upstream.release(gate)
    answer, _ = settled(here, id)
    assert answer.text == "wörd 0 wörd 1 wörd 2 "


def test_tasks_that_were_there_before_the_first_node_are_served(broker: Broker, tmp_path: Path) -> None:
    with open_testbed(broker, tmp_path) as one:
        ids = [one.platform.ask("first", stream) for stream in (False, True)]
        one.start()
        for id in ids:
            assert settled(one, id)[0].text


def test_every_form_of_api_url_works(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> None:
    forms = ["", "/v1", "/v1/", "/v1/chat/completions", "/openai/deployments/d?api-version=1"]
    paths = ["/v1/chat/completions"] * 4 + ["/openai/deployments/d/chat/completions?api-version=1"]
    with ExitStack() as stack:
        testbeds = [stack.enter_context(open_testbed(broker, tmp_path_factory.mktemp("testbed"))) for _ in forms]
        for one, form in zip(testbeds, forms, strict=True):
            one.start(ready=False, API_URL=one.upstream.url + form, WORKER_PROCESSES=1)
        for one, path in zip(testbeds, paths, strict=True):
            one.node.wait_ready()
            assert settled(one, one.platform.ask("hello"))[0].text
            assert [each.path for each in one.upstream.requests] == [path]


# --- the other rows of spec 4 ---


@both
def test_the_client_of_a_refused_request_gets_upstreams_error(here: Testbed, stream: bool) -> None:
    refusal = {"status": 400, "err_type": "invalid_request_error", "err_code": "context_length_exceeded"}
    answer, record = settled(here, here.platform.ask({**refusal, "err_msg": "too long"}, stream))
    error = {"message": "too long", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}
    assert answer.error == error
    assert (record["outcome"]["status"], record["outcome"]["decision"]) == ("refused", "ack")
    assert record["outcome"]["http_status"] == 400


def test_a_client_who_is_gone_gets_nothing_and_its_task_is_acked(here: Testbed) -> None:
    here.platform.register_delay = None
    id = here.platform.ask("hello")
    here.platform.register_delay = 0
    record = here.platform.record_of(id)
    assert (record["outcome"]["status"], record["outcome"]["decision"]) == ("client_gone", "ack")
    assert record["usage_source"] == "upstream", "upstream billed it"


def test_a_stream_whose_connection_breaks_stops_upstream_within_a_second_and_gets_its_end(here: Testbed) -> None:
    gate = uuid.uuid4().hex
    id = str(uuid.uuid4())
    here.gateway.behave(id, cut_after=2)
    here.platform.ask({"gate_chunks": gate}, stream=True, request_id=id)
    here.upstream.release(gate)
    record = here.platform.record_of(id)
    assert record["outcome"]["status"] == "connection_lost"
    (asked,) = [one for one in here.upstream.requests if one.headers["x-client-request-id"] == id]
    left = until(lambda: asked.left_at, 5, "upstream's stream to be stopped")
    answer = here.gateway.answer(id).wait()
    assert left - answer.frames[1].at < 1
    assert (answer.ends, answer.faults) == (1, [])


def test_a_task_that_waited_too_long_is_not_run_and_its_client_gets_an_error(broker: Broker, tmp_path: Path) -> None:
    with open_testbed(broker, tmp_path, TASK_TIMEOUT=1, WORKER_PROCESSES=1) as one:
        ids = [one.platform.ask("hello", stream) for stream in (False, True)]
        published = time.time()
        until(lambda: time.time() - published > 1, 5, "age of the tasks")
        one.start()
        for id in ids:
            answer, record = settled(one, id)
            assert answer.error is not None
            assert answer.error["code"] == "timeout"
            assert (record["outcome"]["status"], record["usage_source"]) == ("expired", "none")
            assert record["timestamps"]["upstream_sent"] is None
        assert one.upstream.requests == []


@both
def test_a_message_that_is_no_task_is_dead_lettered_with_the_reason_and_its_client_gets_an_error(
    here: Testbed, stream: bool
) -> None:
    id = here.platform.ask(stream=stream, task={"data": "not a chat request"})
    answer, record = settled(here, id)
    assert answer.error is not None
    assert answer.error["type"] == "invalid_request_error"
    letters = {letter.properties["request_id"]: letter for letter in here.platform.wait_dead_letters(1 + stream)}
    assert json.loads(letters[id].payload)["data"] == "not a chat request"
    assert letters[id].properties["reason"] == "data must be the chat request, an object, not a string"
    assert here.platform.dead_letter_subscriptions(), "without one the broker would not keep them"
    assert (record["outcome"]["status"], record["outcome"]["decision"]) == ("malformed", "dead_letter")
    assert [one for one in here.upstream.requests if one.headers["x-client-request-id"] == id] == []


# --- bills ---


def test_costs_and_clients_add_up_to_what_upstream_counted(broker: Broker, tmp_path: Path) -> None:
    """Two clients' plain tasks and streams: sums of the records are upstream's figures, to the last digit."""
    prices = {"version": "7", "currency": "EUR", "models": {"priced": {"prompt": 0.15, "completion": 0.6}}}
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    salted = {"PRICES": str(tmp_path / "prices.json"), "RECORD_SALT": "salt-canary-1", "UPSTREAM_MODEL": "priced"}
    tasks = 20
    with open_testbed(broker, tmp_path, WORKER_PROCESSES=1, **salted) as one:
        one.start()
        for number in range(tasks):
            headers = {"User-Agent": ["client"], "Authorization": [f"Bearer sk-client-{number % 2}"]}
            one.platform.ask({"chunks": number}, number % 3 == 0, task={"metadata": {"headers": headers}})
        records = [settled(one, id)[1] for id in one.platform.asked]
        sums = Sums(("key",))
        for record in records:
            sums.add(json.dumps(record).encode())
        assert "sk-client" not in json.dumps(records)
        assert "salt-canary-1" not in json.dumps(records) + "".join(map(str, one.node.logs()))
    completion = sum(range(tasks))
    total = sums.total.figures()
    assert (total["requests"], total["prompt_tokens"], total["completion_tokens"]) == (tasks, 7 * tasks, completion)
    cost = (7 * tasks * Decimal("0.15") + completion * Decimal("0.6")) / 1_000_000
    assert total["cost"] == f"{cost.normalize():f} EUR"
    assert {group.requests for _, group in sums.groups()} == {tasks // 2}
