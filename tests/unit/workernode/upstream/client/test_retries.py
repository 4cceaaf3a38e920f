"""When upstream is asked again, and with what."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.workernode.upstream.client.asker import LONG, WORDS, Asker, texts
from workernode.net.connection import Wire
from workernode.protocol import FaultKind
from workernode.upstream import client as client_module
from workernode.upstream import retry_policy, stream_options
from workernode.upstream.retry_policy import ATTEMPTS


def test_pauses_grow_and_are_drawn_by_lot(ask: Asker, pauses: list[float]) -> None:
    first_pauses = []
    for _ in range(5):
        before = len(pauses)
        ask.fault({"status": 500})
        first_pauses.append(pauses[before])
    assert len(pauses) == 5 * (ATTEMPTS - 1)
    assert all(retry_policy.FIRST_PAUSE / 2 <= pause <= retry_policy.LONGEST_PAUSE for pause in pauses)
    assert len(set(pauses)) > 5
    assert max(first_pauses) <= retry_policy.FIRST_PAUSE < max(pauses)


@pytest.mark.parametrize(
    ("headers", "least"),
    [({"retry-after": "7"}, 7), ({"retry-after": "2.5"}, 2.5), ({"retry-after-ms": "9000", "retry-after": "1"}, 9)],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_upstreams_own_wait_is_the_least(
    ask: Asker, pauses: list[float], headers: dict[str, str], least: float, stream: bool
) -> None:
    limited = {"status": 429, "err_code": "rate_limit_exceeded", "headers": headers}
    assert ask.fault(limited, stream, time_s=1000).kind is FaultKind.RATE_LIMIT
    assert len(pauses) == ATTEMPTS - 1
    assert min(pauses) >= least
    assert [seen.retry_after for seen in ask.seen] == [least] * ATTEMPTS


@pytest.mark.parametrize("headers", [{"retry-after": "3600"}, {"retry-after-ms": "30000"}])
def test_a_wait_beyond_the_tasks_time_is_not_begun(
    ask: Asker, upstream: FakeUpstream, pauses: list[float], headers: dict[str, str]
) -> None:
    fault = ask.fault({"status": 500, "headers": headers}, time_s=10)
    assert (len(upstream.requests), pauses) == (1, [])
    assert fault.kind is FaultKind.PASSING


def test_an_absent_upstream_that_asks_for_a_long_wait_is_not_waited_for(
    ask: Asker, upstream: FakeUpstream, pauses: list[float]
) -> None:
    """Another node may be well: the task goes back at once, with the wait for the supervisor."""
    fault = ask.fault({"status": 503, "headers": {"retry-after": "600"}}, time_s=1000)
    assert (fault.kind, fault.retry_after) == (FaultKind.UNAVAILABLE, 600)
    assert (len(upstream.requests), pauses) == (1, [])


def test_the_tasks_time_ends_the_tries(ask: Asker, upstream: FakeUpstream) -> None:
    fault = ask.fault({"hang_ms": 60_000}, time_s=0.2)
    assert fault.kind is FaultKind.PASSING
    assert len(upstream.requests) == 1
    upstream.wait_for_cancelled()


def test_a_dripped_answer_ends_with_the_tasks_time(ask: Asker) -> None:
    for stream in (False, True):
        fault = ask.fault({"drip_ms": 5, "no_stream": True, "size": 5000}, stream, time_s=0.3)
        assert "within the task's time" in fault.message


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_silence_before_the_answer_is_no_fault_and_upstream_is_asked_once(
    ask: Asker, upstream: FakeUpstream, stream: bool
) -> None:
    ask.upstream._read_timeout = 0.01
    directive = {"latency_ms": 200, "no_stream": not stream, "one_write": True}
    assert ask.stream(directive) if stream else ask.complete(directive)
    assert len(upstream.requests) == 1


def test_silence_between_head_and_first_chunk_is_no_fault(ask: Asker, upstream: FakeUpstream) -> None:
    ask.upstream._read_timeout = 0.01
    event = 'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    assert texts(ask.stream({"raw": [": wait\n\n", event], "chunk_ms": 200})) == "hi"
    assert len(upstream.requests) == 1


def test_a_plain_answer_may_be_silent_in_its_middle(ask: Asker, upstream: FakeUpstream) -> None:
    ask.upstream._read_timeout = 0.01
    answer = '{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'
    assert ask.complete({"raw": ["\n\n", answer], "chunk_ms": 200})
    assert len(upstream.requests) == 1


def test_the_client_is_connected_once_where_a_kept_connection_of_upstream_was_just_closed(
    ask: Asker, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask.complete({"then_close": True})
    until(lambda: not upstream.open_connections, LONG, "close")
    monkeypatch.setattr(Wire, "stale", lambda wire: False)  # it was found open just before the close
    assert texts(ask.stream()) == WORDS
    assert ask.asked.attempts == 2
    assert ask.client.connected == 1


def test_what_a_failed_try_brought_does_not_count(ask: Asker, upstream: FakeUpstream) -> None:
    """It failed before anything was relayed: neither its usage nor its end are those of the next."""
    chunk = {"error": {"message": "overloaded"}, "model": "old", "usage": {"a": 9}}
    broken = f"data: {json.dumps(chunk)}\n\n"
    upstream.script(lambda one: {"raw": broken} if not upstream.requests else {"no_usage": True, "chunks": 2})
    ask.stream()
    asked = ask.asked
    assert (asked.attempts, asked.usage, asked.text_chunks, asked.model) == (2, None, 2, "m")


def test_an_upstream_that_rejects_stream_options_is_asked_without_for_a_while(
    ask: Asker, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert texts(ask.stream({"reject_stream_options": True})) == WORDS
    assert ["stream_options" in one.json for one in upstream.requests] == [True, False, False]
    real = time.monotonic
    monkeypatch.setattr(client_module.time, "monotonic", lambda: real() + stream_options.FIRST_PAUSE)
    ask.stream(time_s=1000)
    assert "stream_options" in upstream.requests[-1].json


def test_an_upstream_that_rejects_stream_options_now_and_then_answers_each_stream(
    ask: Asker, upstream: FakeUpstream
) -> None:
    """One address, two servers behind it: one-api#2187."""
    upstream.script(lambda one: {"reject_stream_options": len(upstream.requests) % 2 == 1})
    for _ in range(6):
        assert texts(ask.stream()) == WORDS


def test_a_bad_request_is_told_as_it_was_first_refused(ask: Asker, upstream: FakeUpstream) -> None:
    """As long as it is not known whether stream_options are taken, they may be the reason."""
    upstream.script(lambda one: {"status": 400, "err_msg": "first" if "stream_options" in one.json else "second"})
    assert ask.fault({}, stream=True).message == "first"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter"])
def test_a_refusal_that_names_its_reason_is_not_taken_for_one_of_stream_options(
    ask: Asker, upstream: FakeUpstream, code: str
) -> None:
    ask.fault({"status": 400, "err_code": code}, stream=True)
    assert len(upstream.requests) == 1
