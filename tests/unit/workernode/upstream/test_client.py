"""Asking upstream, against one that misbehaves: what comes, what is asked again and when, what is given up."""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import API_KEY
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode.body import for_upstream
from workernode.call_stats import CallStats
from workernode.errors import ClientGone, UpstreamFault
from workernode.net import http_client as exchange
from workernode.protocol import CallFailed, FaultKind, Hold, RateLimitReport, Target
from workernode.upstream import client as client_module
from workernode.upstream import retry_policy, stream_options
from workernode.upstream.chunks import Chunk
from workernode.upstream.client import Upstream
from workernode.upstream.request import ChatRequest
from workernode.upstream.retry_policy import ATTEMPTS
from workernode.upstream.streamed_answer import StreamedAnswer

LONG = 20.0  # seconds: what must end sooner by something else


class Client:
    """A client that waits; see Client in workernode/upstream/client.py."""

    def __init__(self) -> None:
        self.due = float("inf")
        self.pauses: list[float] = []
        self.connected = 0
        self.gone_at = float("inf")  # monotonic

    def fileno(self) -> int:
        return -1

    def readable(self) -> None:
        raise AssertionError("there is nothing to read")

    def tick(self) -> None:
        raise ClientGone("left")

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def connect(self) -> None:
        self.connected += 1


class Asker:
    """Upstream as a worker has it, and all that it reports."""

    def __init__(self, fake: FakeUpstream, key: str | None = API_KEY) -> None:
        self.fake = fake
        self.seen: list[RateLimitReport] = []
        self.failed: list[CallFailed] = []
        self.upstream = Upstream(5.0, LONG, self.report)
        self.upstream.set_target(Target(f"{fake.api_url}/chat/completions", key))
        self.client = Client()
        self.asked = CallStats()
        self.relays: list[StreamedAnswer] = []

    def report(self, seen: RateLimitReport | CallFailed) -> None:
        if isinstance(seen, CallFailed):
            self.failed.append(seen)
        else:
            self.seen.append(seen)

    def question(self, directive: dict[str, Any], stream: bool, time_s: float, **more: Any) -> ChatRequest:
        data = {"model": "m", "messages": [{"role": "user", "content": "lab:" + json.dumps(directive)}]}
        body = for_upstream(data, stream=stream, model=None)

        def without_options() -> bytes:
            return for_upstream(data, stream=True, model=None, ask_usage=False)

        self.asked = CallStats()
        return ChatRequest(body, without_options if stream else None, "id-1", time.monotonic() + time_s, True, **more)

    def complete(self, directive: dict[str, Any] | None = None, time_s: float = LONG, **more: Any) -> bytes:
        return self.upstream.complete(self.question(directive or {}, False, time_s, **more), self.asked)

    def begin(self, directive: dict[str, Any] | None = None, time_s: float = LONG, **more: Any) -> StreamedAnswer:
        question = self.question(directive or {}, True, time_s, **more)
        self.relays.append(self.upstream.stream(question, self.asked, self.client, self.client.connect))
        return self.relays[-1]

    def stream(self, directive: dict[str, Any] | None = None, time_s: float = LONG, **more: Any) -> list[Chunk]:
        relay = self.begin(directive, time_s, **more)
        chunks = [chunk for batch in relay.batches() for chunk in batch]
        relay.finish()
        return chunks

    def fault(
        self, directive: dict[str, Any], stream: bool = False, time_s: float = LONG, **more: Any
    ) -> UpstreamFault:
        """The fault that it ends in, before anything of it could be relayed."""
        ask = self.begin if stream else self.complete
        with pytest.raises(UpstreamFault) as caught:
            ask(directive, time_s, **more)
        return caught.value

    def close(self) -> None:
        """Close its connections, those of streams that were left in the middle as well."""
        for relay in self.relays:
            relay.abort()
        self.upstream.set_target(Target("http://127.0.0.1:9/", None))  # which closes those that are kept


@pytest.fixture
def ask(upstream: FakeUpstream) -> Iterator[Asker]:
    with closing(Asker(upstream)) as asker:
        yield asker


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not waited for."""
    taken: list[float] = []

    def pause(self: Client, seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(Client, "pause", pause)
    # tenacity takes it from here when a Retrying is made, which for plain requests is at each of them.
    monkeypatch.setattr(client_module.time, "sleep", taken.append)  # type: ignore[attr-defined]
    return taken


def texts(chunks: list[Chunk]) -> str:
    words = [json.loads(chunk.raw)["choices"] for chunk in chunks if chunk.raw and not chunk.bare_usage]
    return "".join(choices[0]["delta"].get("content") or "" for choices in words)


WORDS = "".join(f"wörd {number} " for number in range(5))


# --- a good answer ---


def test_a_completion_is_given_as_it_came(ask: Asker, upstream: FakeUpstream) -> None:
    raw = ask.complete()
    assert raw.decode() == upstream.requests[0].events[0]
    asked = ask.asked
    assert (asked.attempts, asked.http_status, asked.finish_reason, asked.model) == (1, 200, "stop", "m")
    assert asked.usage == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert asked.first_sent_at == asked.sent_at
    assert asked.sent_at is not None
    assert asked.sent_at <= (asked.first_at or 0) <= (asked.done_at or 0)


def test_a_stream_is_given_as_it_came(ask: Asker, upstream: FakeUpstream) -> None:
    chunks = ask.stream()
    assert [chunk.raw.decode() for chunk in chunks] == upstream.requests[0].events
    assert texts(chunks) == WORDS
    assert [chunk.bare_usage for chunk in chunks] == [False] * 7 + [True]
    asked = ask.asked
    assert (asked.attempts, asked.finish_reason, asked.text_chunks, ask.client.connected) == (1, "stop", 5, 1)
    assert asked.usage == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_what_upstream_gets(ask: Asker, upstream: FakeUpstream) -> None:
    ask.complete()
    ask.stream()
    plain, stream = upstream.requests
    for one in (plain, stream):
        assert one.path == "/v1/chat/completions"
        assert one.headers["authorization"] == f"Bearer {API_KEY}"
        assert one.headers["content-type"] == "application/json"
        assert one.headers["x-client-request-id"] == "id-1"
    assert (plain.json["stream"], "stream_options" in plain.json) == (False, False)
    assert (stream.json["stream"], stream.json["stream_options"]) == (True, {"include_usage": True})


def test_without_a_key_there_is_no_authorization(upstream: FakeUpstream) -> None:
    with closing(Asker(upstream, key=None)) as ask:
        ask.complete()
    assert "authorization" not in upstream.requests[0].headers


def test_a_request_id_outside_ascii_is_no_header(ask: Asker, upstream: FakeUpstream) -> None:
    question = ask.question({}, False, LONG)
    odd = ChatRequest(question.body, None, "id-ö", question.deadline, True)
    ask.upstream.complete(odd, ask.asked)
    assert "x-client-request-id" not in upstream.requests[0].headers


def test_a_query_string_is_kept(ask: Asker, upstream: FakeUpstream) -> None:
    ask.upstream.set_target(Target(f"{upstream.url}/openai/deployments/d/chat/completions?api-version=1", "k"))
    ask.complete()
    assert upstream.requests[0].path == "/openai/deployments/d/chat/completions?api-version=1"


def test_connections_are_kept_between_plain_and_streamed_answers(ask: Asker, upstream: FakeUpstream) -> None:
    for _ in range(3):
        ask.complete()
        ask.stream()
        ask.fault({"status": 400})
    assert {one.connection for one in upstream.requests} == {1}


def test_a_new_target_is_asked_from_then_on(ask: Asker, upstream: FakeUpstream) -> None:
    ask.complete()
    ask.upstream.set_target(Target(f"{upstream.url}/other/chat/completions", "second"))
    ask.complete()
    assert [one.path for one in upstream.requests] == ["/v1/chat/completions", "/other/chat/completions"]
    assert upstream.requests[1].headers["authorization"] == "Bearer second"


# --- every shape of a stream (issue 3) ---

SHAPES: dict[str, dict[str, Any]] = {
    "crlf": {"crlf": True},
    "cr": {"cr": True},
    "comments": {"comments": True},
    "comments_and_crlf": {"comments": True, "crlf": True},
    "no_space": {"no_space": True},
    "split_in_the_middle_of_characters": {"split": True},
    "several_data_lines": {"pretty": True},
    "several_data_lines_with_cr": {"pretty": True, "cr": True},
    "in_one_piece": {"one_write": True},
    "byte_by_byte": {"drip_ms": 0.01, "chunks": 5},
    "without_done": {"no_done": True},
    "ended_by_close": {"close_delimited": True},
    "ended_by_close_without_done": {"close_delimited": True, "no_done": True},
    "usage_on_the_last_content_chunk": {"usage_on_last": True},
    "without_usage": {"no_usage": True},
    "wrong_content_type": {"content_type": "application/json"},
    "plain_json": {"no_stream": True},
    "plain_json_said_to_be_a_stream": {"no_stream": True, "content_type": "text/event-stream"},
    "no_finish_reason_but_done": {"no_finish": True},
}


@pytest.mark.parametrize("directive", SHAPES.values(), ids=SHAPES.keys())
def test_a_stream_in_any_shape_brings_its_text(ask: Asker, directive: dict[str, Any]) -> None:
    chunks = ask.stream(directive)
    assert texts(chunks).replace("wörd wörd wörd wörd wörd ", WORDS) == WORDS
    assert all(b"\n" not in chunk.raw for chunk in chunks)
    assert (ask.asked.usage is None) is bool(directive.get("no_usage"))
    assert ask.asked.attempts == 1


def test_an_empty_event_is_a_sign_of_life(ask: Asker) -> None:
    event = 'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    assert texts(ask.stream({"raw": "data:\n\ndata: \n\n" + event + "data:\n\ndata: [DONE]\n\n"})) == "hi"


def test_what_follows_done_is_never_passed_on(ask: Asker) -> None:
    event = 'data: {"choices":[{"delta":{"content":"%s"},"finish_reason":"stop"}]}\n\n'
    chunks = ask.stream({"raw": event % "a" + "data: [DONE]\n\n" + event % "b"})
    assert texts(chunks) == "a"


def test_chunks_that_are_there_together_come_together(ask: Asker) -> None:
    relay = ask.begin({"one_write": True})
    assert len(next(relay.batches())) >= 7
    relay.abort()


def test_a_chunk_arrives_before_the_next_one_is_sent(ask: Asker, upstream: FakeUpstream) -> None:
    relay = ask.begin({"chunks": 3, "gate_chunks": "g"})
    batches = relay.batches()
    assert texts(next(batches)) == ""  # the role
    for number in range(3):
        upstream.release("g")
        assert texts(next(batches)) == f"wörd {number} "
    upstream.open_gate("g")
    assert len([chunk for batch in batches for chunk in batch]) == 2
    relay.finish()


def test_sse_to_a_plain_request_becomes_one_completion(ask: Asker) -> None:
    answer = json.loads(ask.complete({"sse_to_plain": True, "comments": True, "split": True}))
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["message"] == {"role": "assistant", "content": WORDS}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("directive", "kind"),
    [
        ({"error_mid": True}, FaultKind.PASSING),
        ({"no_done": True, "no_finish": True}, FaultKind.PASSING),
        ({"nan": True}, FaultKind.PASSING),
        ({"truncated": True}, FaultKind.PASSING),
        ({"raw": 'data: {"error":{"message":"x","code":"invalid_api_key"}}\n\n'}, FaultKind.KEY),
        ({"raw": "data: [DONE]\n\n"}, FaultKind.PASSING),
    ],
    ids=["error_in_it", "cut", "not_json", "no_last_chunk", "only_an_error", "empty"],
)
def test_sse_to_a_plain_request_that_fails_is_no_completion(
    ask: Asker, directive: dict[str, Any], kind: FaultKind
) -> None:
    """Half an answer would be billed and read as a whole one. None of it has left, so it can be asked again."""
    assert ask.fault({"sse_to_plain": True, **directive}).kind is kind


# --- what is no answer ---

BAD: dict[str, dict[str, Any]] = {
    "error_in_a_200": {"raw": '{"error":{"message":"no","type":"server_error"}}'},
    "error_as_text_in_a_200": {"raw": '{"error":"no"}'},
    "empty": {"raw": ""},
    "json_that_is_no_completion": {"raw": '{"ok":true}'},
    "list": {"raw": "[]"},
    "nan": {"nan": True},
    "not_utf8": {"invalid_utf8": True},
    "deep": {"deep": 100_000},
    "truncated": {"truncated": True},
    "length_too_small": {"wrong_length": True},
    "cut": {"cut_after": 1},
    "no_content": {"status": 204, "raw": ""},
    "reset": {"reset": True},
    "closed": {"close": True},
    "503": {"status": 503},
    "408": {"status": 408},
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("directive", BAD.values(), ids=BAD.keys())
def test_what_is_no_answer_is_asked_again_a_few_times(
    ask: Asker, upstream: FakeUpstream, pauses: list[float], directive: dict[str, Any], stream: bool
) -> None:
    assert ask.fault({**directive, "no_stream": stream}, stream).kind in (FaultKind.PASSING, FaultKind.UNAVAILABLE)
    assert (len(upstream.requests), ask.asked.attempts, len(pauses)) == (ATTEMPTS, ATTEMPTS, ATTEMPTS - 1)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("directive", BAD.values(), ids=BAD.keys())
def test_an_upstream_that_recovers_in_time_answers(
    ask: Asker, upstream: FakeUpstream, directive: dict[str, Any], stream: bool
) -> None:
    directive = {**directive, "key": "k", "fail_times": 2, "no_stream": stream}
    answer = texts(ask.stream(directive)) if stream else ask.complete(directive).decode()
    assert "wörd" in answer
    assert ask.asked.attempts == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FaultKind.CLIENT),
        (404, FaultKind.MODEL),
        (401, FaultKind.KEY),
        (402, FaultKind.QUOTA),
        (307, FaultKind.ADDRESS),
        (405, FaultKind.ADDRESS),
        (403, FaultKind.REFUSED),
    ],
)
def test_what_asking_again_cannot_help_is_asked_once(
    ask: Asker, upstream: FakeUpstream, status: int, kind: FaultKind
) -> None:
    fault = ask.fault({"status": status})
    assert (fault.kind, fault.http_status, ask.asked.http_status) == (kind, status, status)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [0, 400, 403, 404])
def test_a_page_of_html_means_that_no_api_is_there(ask: Asker, upstream: FakeUpstream, status: int) -> None:
    kind = FaultKind.REFUSED if status == 403 else FaultKind.ADDRESS  # a firewall's page has the status 403
    assert ask.fault({"html": True, "status": status}).kind is kind
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_a_completion_with_any_2xx_is_an_answer(ask: Asker, upstream: FakeUpstream, status: int) -> None:
    """codicil PR #4: a good answer with status 201 was bought 16 times."""
    assert b"chat.completion" in ask.complete({"raw": '{"object":"chat.completion","choices":[{}]}', "status": status})
    assert len(upstream.requests) == 1


def test_a_redirect_is_not_followed(ask: Asker, upstream: FakeUpstream) -> None:
    assert ask.fault({"redirect_to": f"{upstream.url}/v1/chat/completions"}).kind is FaultKind.ADDRESS
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("said", "requests"), [("true", ATTEMPTS), ("false", 1)])
def test_x_should_retry_decides_whether_to_ask_again(
    ask: Asker, upstream: FakeUpstream, said: str, requests: int
) -> None:
    ask.fault({"status": 422 if said == "true" else 503, "headers": {"x-should-retry": said}})
    assert len(upstream.requests) == requests


def test_an_upstream_that_is_down_is_unavailable(ask: Asker, upstream: FakeUpstream) -> None:
    upstream.down()
    fault = ask.fault({})
    assert (fault.kind, fault.http_status, ask.asked.attempts) == (FaultKind.UNAVAILABLE, 0, ATTEMPTS)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_answer_that_is_too_large_is_not_asked_for_again(
    ask: Asker, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER", 1 << 20)
    for directive in ({"gzip_bomb_mb": 2, "no_stream": True}, {"big_mb": 2}):
        fault = ask.fault({"chunks": 1, **directive}, stream) if not stream or "no_stream" in directive else None
        if fault is None:
            relay = ask.begin({"chunks": 1, **directive})
            with pytest.raises(UpstreamFault) as caught:
                list(relay.batches())
            relay.abort()
            fault = caught.value
        assert fault.kind is (FaultKind.BROKEN if stream and "big_mb" in directive else FaultKind.CLIENT)
        assert fault.code == "answer_too_large"
    assert len(upstream.requests) == 2


# --- when it is asked again ---


def test_pauses_grow_and_are_drawn_by_lot(ask: Asker, pauses: list[float]) -> None:
    for _ in range(5):
        ask.fault({"status": 503})
    assert all(retry_policy.FIRST_PAUSE / 2 <= pause <= retry_policy.LONGEST_PAUSE for pause in pauses)
    assert len(set(pauses)) > 5
    assert max(pauses[0::3]) <= retry_policy.FIRST_PAUSE <= retry_policy.FIRST_PAUSE * 2


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
    directive = {"latency_ms": 200, "no_stream": not stream}
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


def test_what_a_failed_try_brought_does_not_count(ask: Asker, upstream: FakeUpstream) -> None:
    """It failed before anything was relayed: neither its usage nor its end are those of the next."""
    chunk = {"error": {"message": "overloaded"}, "model": "old", "usage": {"a": 9}}
    broken = f"data: {json.dumps(chunk)}\n\n"
    upstream.script(lambda one: {"raw": broken} if not upstream.requests else {"no_usage": True, "chunks": 2})
    ask.stream()
    asked = ask.asked
    assert (asked.attempts, asked.usage, asked.text_chunks, asked.model) == (2, None, 2, "m")


# --- stream_options ---


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


# --- in the middle of a stream ---

BREAKS: dict[str, dict[str, Any]] = {
    "error": {"error_mid": True},
    "cut": {"cut_after": 2},
    "no_last_chunk": {"truncated": True, "no_done": True, "no_finish": True},
    "no_end": {"no_done": True, "no_finish": True},
    "not_json": {"nan": True},
    "not_utf8": {"invalid_utf8": True},
}


@pytest.mark.parametrize("directive", BREAKS.values(), ids=BREAKS.keys())
def test_a_stream_that_breaks_gives_what_came_and_is_not_asked_again(
    ask: Asker, upstream: FakeUpstream, directive: dict[str, Any]
) -> None:
    relay = ask.begin({"gate_chunks": "g", **directive})
    upstream.open_gate("g")
    got: list[list[Chunk]] = []
    with pytest.raises(UpstreamFault) as caught:
        got += relay.batches()  # one by one, as they come
    assert got[0][0].raw.decode() == upstream.requests[0].events[0]
    assert caught.value.kind is FaultKind.BROKEN
    assert set(caught.value.body["error"]) >= {"message", "type", "code"}
    assert len(upstream.requests) == 1


def test_chunks_before_an_error_in_the_same_piece_are_given_first(ask: Asker) -> None:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("", "a", "b")]
    role, *rest = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    relay = ask.begin({"raw": [role, "".join(rest) + 'data: {"error":{"message":"late"}}\n\n'], "chunk_ms": 300})
    got: list[list[Chunk]] = []
    with pytest.raises(UpstreamFault, match="late"):
        got += relay.batches()  # one by one, as they come
    assert "".join(map(texts, got)) == "ab"


def test_chunks_before_an_error_in_the_first_piece_are_given_first(ask: Asker, upstream: FakeUpstream) -> None:
    """As if they had come alone: what a stream's fault does must not depend on how the network cuts it."""
    good = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    relay = ask.begin({"raw": good + 'data: {"error":{"message":"late"}}\n\n'})
    got: list[list[Chunk]] = []
    with pytest.raises(UpstreamFault, match="late") as caught:
        got += relay.batches()  # one by one, as they come
    assert "".join(map(texts, got)) == "a"
    assert caught.value.kind is FaultKind.BROKEN
    assert len(upstream.requests) == 1


def test_an_error_before_anything_was_relayed_is_asked_again(ask: Asker, upstream: FakeUpstream) -> None:
    error = 'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    upstream.script(lambda one: {"raw": error} if not upstream.requests else None)
    assert texts(ask.stream()) == WORDS


def test_a_stream_that_falls_silent_breaks(ask: Asker) -> None:
    ask.upstream._read_timeout = 0.1
    relay = ask.begin({"gate_chunks": "never"})
    with pytest.raises(UpstreamFault, match="silent") as caught:
        list(relay.batches())
    relay.abort()
    assert caught.value.kind is FaultKind.BROKEN


def test_a_tail_that_does_not_come_costs_the_connection_and_no_time(
    ask: Asker, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After [DONE] the answer is whole; a server that does not end the body must not hold the slot."""
    ask.stream({"raw": ['data: {"choices":[]}\n\ndata: [DONE]\n\n', "x"], "chunk_ms": 60_000})
    upstream.wait_for_cancelled()


def test_a_client_that_leaves_ends_the_wait_for_upstream(ask: Asker, upstream: FakeUpstream) -> None:
    ask.client.due = time.monotonic() + 0.05
    with pytest.raises(ClientGone):
        ask.begin({"hang_ms": 60_000})
    upstream.wait_for_cancelled()


def test_a_client_that_leaves_ends_the_stream(ask: Asker, upstream: FakeUpstream) -> None:
    relay = ask.begin({"gate_chunks": "never"})
    batches = relay.batches()
    next(batches)
    ask.client.due = time.monotonic()
    with pytest.raises(ClientGone):
        next(batches)
    relay.abort()
    upstream.wait_for_cancelled()


# --- what the whole node must know ---


@pytest.mark.parametrize("stream", [False, True])
def test_each_failed_call_is_reported_with_its_task_and_its_time(ask: Asker, stream: bool) -> None:
    before = time.monotonic()
    ask.fault({"status": 503}, stream=stream)
    assert len(ask.failed) == ATTEMPTS
    assert {(seen.request_id, seen.fault.http_status) for seen in ask.failed} == {("id-1", 503)}
    assert before < ask.failed[0].asked < ask.failed[-1].asked


def test_a_refusal_is_not_reported_as_a_failed_call(ask: Asker) -> None:
    ask.fault({"status": 401, "err_type": "invalid_request_error"})
    ask.fault({"status": 400})
    assert ask.failed == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_call_is_not_repeated_while_upstream_is_away(ask: Asker, stream: bool) -> None:
    ask.upstream.set_hold(Hold(0.0, no_retries=True))
    ask.fault({"status": 503}, stream=stream)
    assert len(ask.failed) == 1


# --- limits of the whole node ---


def test_limit_headers_are_reported_to_the_supervisor(ask: Asker) -> None:
    ask.complete({"headers": {"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "3"}})
    ask.fault({"status": 429, "err_type": "insufficient_quota"})
    good, quota = ask.seen
    assert (good.kind, good.limit_requests, good.remaining_requests) == (None, 10, 3)
    assert quota.kind is FaultKind.QUOTA


def test_an_answer_without_limit_headers_gives_no_report(ask: Asker) -> None:
    ask.complete()
    assert ask.seen == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> Callable[[], float]:
    """A clock that a pause moves on."""
    real = time.monotonic

    def now() -> float:
        return real() + sum(pauses)

    monkeypatch.setattr(client_module.time, "monotonic", now)  # type: ignore[attr-defined]
    return now


def test_a_hold_is_waited_for(ask: Asker, pauses: list[float], clock: Callable[[], float]) -> None:
    ask.upstream.set_hold(Hold(clock() + 5))
    question = ask.question({}, False, LONG)
    ask.upstream.complete(question, ask.asked)
    assert sum(pauses) == pytest.approx(5, abs=1)


def test_those_who_waited_for_a_hold_do_not_come_all_at_once(
    ask: Asker, pauses: list[float], clock: Callable[[], float]
) -> None:
    for _ in range(5):
        ask.upstream.set_hold(Hold(clock() + 1, spread=10))
        ask.upstream.complete(ask.question({}, False, 1000), ask.asked)
    assert len({round(pause, 3) for pause in pauses}) == 5
    assert all(0 < pause <= 11 for pause in pauses)


def test_a_hold_that_is_made_longer_is_waited_for_again(
    ask: Asker, upstream: FakeUpstream, pauses: list[float], clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def longer(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            ask.upstream.set_hold(Hold(clock() + 3))

    monkeypatch.setattr("workernode.upstream.client.time.sleep", longer)
    ask.upstream.set_hold(Hold(clock() + 1))
    ask.upstream.complete(ask.question({}, False, 1000), ask.asked)
    assert len(pauses) == 2
    assert len(upstream.requests) == 1


def test_a_hold_beyond_the_tasks_time_sends_it_back(ask: Asker, upstream: FakeUpstream, pauses: list[float]) -> None:
    ask.upstream.set_hold(Hold(time.monotonic() + 60))
    fault = ask.fault({}, time_s=5)
    assert (fault.kind, upstream.requests, pauses) == (FaultKind.RATE_LIMIT, [], [])
    assert fault.retry_after == pytest.approx(60, abs=5)


def test_nothing_of_an_answer_that_was_refused_stays_in_memory(ask: Asker) -> None:
    """Not even until the garbage collector comes by: 64 MiB for each of 128 slots would be too much to wait with."""
    ask.fault({"nan": True})
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for stream in (False, True):
            ask.fault({"nan": True, "size": 20_000_000, "no_stream": True}, stream)
            until(lambda: tracemalloc.get_traced_memory()[0] < 10_000_000, LONG, "memory given back")
    finally:
        tracemalloc.stop()
        gc.enable()


# --- safety ---


def test_tls_is_verified(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    fake, _ = tls_upstream
    with closing(Asker(fake)) as ask:
        fault = ask.fault({})
    assert "certificate is not valid" in fault.message
    assert not fake.requests


def test_a_trusted_upstream_over_tls_answers(
    tls_upstream: tuple[FakeUpstream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, authority = tls_upstream
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with closing(Asker(fake)) as ask:
        assert texts(ask.stream({"split": True})) == WORDS
        assert b"chat.completion" in ask.complete()


@pytest.mark.parametrize(
    "directive",
    [{"reset": True}, {"hang_ms": 60_000}, {"html": True}, {"truncated": True}, {"status": 500}, {"nan": True}],
)
def test_no_fault_of_our_own_words_holds_the_key_or_the_address(
    ask: Asker, upstream: FakeUpstream, directive: dict[str, Any]
) -> None:
    fault = ask.fault(directive, time_s=0.3 if "hang_ms" in directive else LONG)
    for text in (str(fault), repr(fault), json.dumps(fault.body), fault.info().message):
        assert API_KEY not in text
        assert upstream.address not in text
