"""What is a good answer, whole or streamed, in every shape."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

from tests.support.fixtures import API_KEY
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.upstream.client.asker import LONG, WORDS, Asker, texts
from workernode.protocol import FaultKind, Target
from workernode.upstream.request import ChatRequest


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


def test_white_space_before_a_stream_is_no_part_of_it(ask: Asker) -> None:
    event = 'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    assert texts(ask.stream({"raw": [" ", "\n", "  \t", f" {event}data: [DONE]\n\n"]})) == "hi"


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
