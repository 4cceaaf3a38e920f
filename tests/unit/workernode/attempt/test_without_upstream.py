"""Deliveries that end without asking upstream: expired, rejected, malformed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.workernode.attempt.bench import Bench, both, record_of
from workernode import attempt
from workernode.gateway import timing
from workernode.protocol import Decision, Rejection

# --- no upstream call ---


@both
def test_a_task_that_is_too_old_is_not_run(bench: Bench, stream: bool) -> None:
    outcome, answer = bench.run(stream=stream, seconds=-1)
    assert (outcome.decision, outcome.status, outcome.attempts) == (Decision.ACK, "expired", 0)
    assert answer.wait().error is not None
    assert answer.error["code"] == "timeout"  # type: ignore[index]
    assert bench.up.requests == []
    made = record_of(outcome)
    assert (made["usage_source"], made["timestamps"]["upstream_sent"]) == ("none", None)


@both
def test_a_rejection_is_sent_to_the_client_instead_of_running_the_task(bench: Bench, stream: bool) -> None:
    error = {"error": {"message": "x", "type": "server_error", "param": None, "code": "worker_died"}}
    outcome, answer = bench.run(stream=stream, rejection=Rejection("poison", Decision.DEAD_LETTER, error, 0))
    assert (outcome.decision, outcome.status) == (Decision.DEAD_LETTER, "poison")
    assert answer.wait().data == error
    assert (answer.ends, bench.up.requests) == (int(stream), [])


def test_the_record_of_a_rejection_counts_the_calls_and_names_the_status_that_led_to_it(bench: Bench) -> None:
    """A task that upstream refused, and that was kept until it was known whose fault that is."""
    error = {"error": {"message": "x", "type": "t", "param": None, "code": "c"}}
    payload = bench.payload("id-1", {}, False, {})
    bench.gateway.register("id-1")
    job = replace(bench.job(payload), rejection=Rejection("refused", Decision.ACK, error, 403), attempts=2)
    outcome = attempt.run(job, bench.services, bench.progress)
    made = record_of(outcome)
    assert (outcome.attempts, made["attempts"], made["outcome"]["http_status"]) == (2, 2, 403)


@both
def test_a_rejection_ends_a_stream_that_has_begun(bench: Bench, stream: bool) -> None:
    """Of a worker that died: its successor ends what the client has begun to see."""
    error = {"error": {"message": "x", "type": "upstream_error", "param": None, "code": "stream_interrupted"}}
    outcome, answer = bench.run(stream=stream, rejection=Rejection("broken", Decision.ACK, error, 0))
    assert (outcome.decision, outcome.status) == (Decision.ACK, "broken")
    assert answer.wait().error == error["error"]


NOT_TASKS = {
    "no_data": ({"data": ...}, True),
    "data_as_text": ({"data": "x"}, True),
    "infinite_number": ({"data": {"temperature": 1e400}}, False),
    "stream_missing": ({"stream": ...}, True),
    "no_endpoint": ({"endpoint": ...}, False),
    "endpoint_of_a_file": ({"endpoint": "file:///etc/passwd"}, False),
    "endpoint_without_dns_name": ({"endpoint": "http://a..b/res"}, False),
}


@both
@pytest.mark.parametrize(("changes", "is_told"), NOT_TASKS.values(), ids=NOT_TASKS.keys())
def test_a_message_that_is_not_a_task_is_dead_lettered_and_its_client_gets_an_error(
    bench: Bench, changes: dict[str, Any], is_told: bool, stream: bool
) -> None:
    outcome, answer = bench.run(stream=stream, id="x", changes=changes)
    assert (outcome.decision, outcome.status) == (Decision.DEAD_LETTER, "malformed")
    assert outcome.reason
    assert bench.up.requests == []
    if is_told:
        assert answer.wait().error is not None
        assert answer.error["type"] == "invalid_request_error"  # type: ignore[index]
        assert outcome.request_id == "x"
    record_of(outcome)


def test_a_body_that_can_be_read_and_not_be_written_is_no_task(bench: Bench) -> None:
    bench.gateway.register("x")
    payload = bench.payload("x", {}, False, {}).replace(b'"model": "m"', b'"model": 1e400')
    outcome = attempt.run(bench.job(payload), bench.services, bench.progress)
    assert (outcome.decision, outcome.status) == (Decision.DEAD_LETTER, "malformed")
    assert bench.gateway.answer("x").wait().error is not None
    record_of(outcome)


def test_a_message_that_can_not_be_read_at_all_is_dead_lettered(bench: Bench) -> None:
    for payload in (b"", b"rubbish", b"\xff" * 100, b"[" * 100_000, b'{"request_id": 1}'):
        outcome = attempt.run(bench.job(payload), bench.services, bench.progress)
        assert (outcome.decision, outcome.status, outcome.request_id) == (Decision.DEAD_LETTER, "malformed", "")
        assert record_of(outcome)["request"]["bytes"] == len(payload)


# --- whatever comes ---


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "request_id": VALUE | st.just("x"),
        "stream": VALUE | st.booleans(),
        "endpoint": VALUE | st.sampled_from(["http://127.0.0.1:1/res", "ws://127.0.0.1:1/res/ws", "http://a..b/"]),
        "data": VALUE
        | st.fixed_dictionaries({}, optional={"model": VALUE, "messages": VALUE, "user": VALUE, "n": VALUE}),
        "metadata": VALUE | st.fixed_dictionaries({"headers": st.dictionaries(st.just("User-Agent"), VALUE)}),
    },
)


@hypothesis_settings(max_examples=60)
@given(message=st.binary(max_size=60) | MESSAGE.map(lambda value: json.dumps(value).encode()))
def test_any_message_yields_a_decision(bench: Bench, monkeypatch: pytest.MonkeyPatch, message: bytes) -> None:
    monkeypatch.setattr(timing, "SHORTEST_OFFER", 0.0)
    bench.up.script(lambda one: {})
    record_of(attempt.run(bench.job(message, seconds=0.001), bench.services, bench.progress))
