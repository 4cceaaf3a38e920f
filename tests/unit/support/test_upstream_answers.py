"""What the double of upstream answers (tests/support/upstream)."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.upstream import FakeUpstream
from tests.unit.support.http_client import TIMEOUT, begin, chat, client, events, whole


def test_plain_answer_and_its_log(upstream: FakeUpstream) -> None:
    with client(upstream.port) as connection:
        for _ in range(2):
            answer = begin(connection, {"key": "a", "chunks": 2})
            body = json.loads(answer.read())
    assert answer.status == 200
    assert body["choices"][0]["message"]["content"] == "wörd wörd "
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    first, second = upstream.wait_for_requests(2)
    assert upstream.of("a") == [first, second]
    assert upstream.count("a") == 2
    assert first.connection == second.connection  # kept alive
    assert first.body == chat({"key": "a", "chunks": 2})
    assert first.headers["authorization"] == "Bearer k"
    assert first.path == "/v1/chat/completions"
    assert json.loads(second.sent[0][1]) == body
    assert first.status == 200


def test_stream_hides_usage_from_who_did_not_ask(upstream: FakeUpstream) -> None:
    status, headers, body = whole(upstream, {"chunks": 2}, stream=True)
    *chunks, done = events(body)
    assert (status, headers["content-type"], done) == (200, "text/event-stream", "[DONE]")
    assert len(chunks) == 4  # role, two words, finish
    assert "usage" not in body.decode()
    assert upstream.requests[0].events == chunks


def test_stream_gives_usage_to_who_asked(upstream: FakeUpstream) -> None:
    *_, last, done = events(whole(upstream, {}, stream=True, stream_options={"include_usage": True})[2])
    assert json.loads(last)["choices"] == []
    assert json.loads(last)["usage"]["total_tokens"] == 12
    assert done == "[DONE]"


def test_usage_on_last_rides_on_the_last_content(upstream: FakeUpstream) -> None:
    *_, content, finish, done = events(whole(upstream, {"usage_on_last": True}, stream=True)[2])
    assert json.loads(content)["usage"]["total_tokens"] == 12
    assert json.loads(content)["choices"][0]["delta"]["content"]
    assert json.loads(finish)["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("directive", "stream", "seen"),
    [
        ({"no_done": True}, True, lambda body: b"[DONE]" not in body and b'"stop"' in body),
        ({"no_finish": True}, True, lambda body: b"[DONE]" in body and b'"stop"' not in body),
        ({"crlf": True}, True, lambda body: body.endswith(b"data: [DONE]\r\n\r\n")),
        ({"cr": True}, True, lambda body: body.endswith(b"data: [DONE]\r\r") and b"\n" not in body),
        ({"comments": True}, True, lambda body: body.startswith(b": ping\n\ndata: {")),
        ({"no_space": True}, True, lambda body: body.startswith(b"data:{")),
        ({"pretty": True}, True, lambda body: body.startswith(b'data: {\ndata:  "id"')),
        ({"split": True}, True, lambda body: len(events(body)) == 8 and "wörd 4" in body.decode()),
        ({"one_write": True}, True, lambda body: len(events(body)) == 8),
        ({"error_mid": True}, True, lambda body: "mid-stream failure" in events(body)[-1] and len(events(body)) == 4),
        ({"no_stream": True}, True, lambda body: json.loads(body)["object"] == "chat.completion"),
        ({"sse_to_plain": True}, False, lambda body: events(body)[-1] == "[DONE]"),
        ({"close_delimited": True}, True, lambda body: events(body)[-1] == "[DONE]"),
        ({"close_delimited": True}, False, lambda body: json.loads(body)["usage"]),
        ({"no_usage": True}, False, lambda body: "usage" not in json.loads(body)),
        ({"size": 3}, False, lambda body: json.loads(body)["choices"][0]["message"]["content"] == "xxx"),
        ({"echo": True}, False, lambda body: "lab:" in json.loads(body)["choices"][0]["message"]["content"]),
        ({"nan": True}, False, lambda body: body.endswith(b'"score":NaN}')),
        ({"nan": True}, True, lambda body: body.count(b"NaN") == 1),
        ({"deep": 9}, False, lambda body: b"[[[[[[[[[]]]]]]]]]" in body),
        ({"deep": 9}, True, lambda body: body.count(b"[[[[[[[[[]]]]]]]]]") == 1),
        ({"invalid_utf8": True}, False, lambda body: b"\xc3\x28\xff" in body),
        ({"invalid_utf8": True}, True, lambda body: body.count(b"\xc3\x28\xff") == 1),
        ({"big_mb": 2}, False, lambda body: len(body) > 2 << 20),
        ({"big_mb": 2}, True, lambda body: len(body) > 2 << 20),
        ({"gzip_bomb_mb": 3}, False, lambda body: len(body) < 1 << 16 and len(gzip.decompress(body)) > 3 << 20),
        ({"gzip_bomb_mb": 3}, True, lambda body: b"data: [DONE]" in gzip.decompress(body)),
        ({"html": True}, False, lambda body: body.startswith(b"<!DOCTYPE html>")),
        ({"raw": "<x>"}, True, lambda body: body == b"<x>"),
        ({"raw": ["a", "b"]}, False, lambda body: body == b"ab"),
        ({"raw": ""}, False, lambda body: body == b""),
        ({"drip_ms": 0.01, "raw": "drip"}, False, lambda body: body == b"drip"),
        ({"drip_ms": 0.01, "chunks": 1, "size": 1}, True, lambda body: len(events(body)) == 4),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_shapes_of_an_answer(
    upstream: FakeUpstream, directive: dict[str, Any], stream: bool, seen: Callable[[bytes], bool]
) -> None:
    status, _, body = whole(upstream, directive, stream=stream)
    assert status == 200
    assert seen(body), body[:500]


def test_drip_is_byte_by_byte_and_close_delimited_has_no_framing(upstream: FakeUpstream) -> None:
    with socket.create_connection(("127.0.0.1", upstream.port), TIMEOUT) as sock:
        body = chat({"close_delimited": True, "chunks": 1}, stream=True)
        sock.sendall(b"POST /chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, sent = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head
    assert sent.startswith(b"data: {")


def test_error_bodies_are_openai_s(upstream: FakeUpstream) -> None:
    error = {"err_type": "insufficient_quota", "err_code": None, "err_msg": "no"}
    directive = {"status": 429, **error, "headers": {"X-A": "b"}}
    status, headers, body = whole(upstream, directive)
    assert (status, headers["x-a"]) == (429, "b")
    assert json.loads(body) == {"error": {"message": "no", "type": "insufficient_quota", "param": None, "code": None}}


def test_html_takes_a_status_and_content_type_can_lie(upstream: FakeUpstream) -> None:
    assert whole(upstream, {"html": True, "status": 502})[0] == 502
    status, headers, body = whole(upstream, {"content_type": "text/plain"})
    assert (status, headers["content-type"], json.loads(body)["object"]) == (200, "text/plain", "chat.completion")


def test_redirect(upstream: FakeUpstream) -> None:
    status, headers, _ = whole(upstream, {"redirect_to": "http://127.0.0.1:9/"})
    assert (status, headers["location"]) == (307, "http://127.0.0.1:9/")


def test_only_the_first_of_a_key_fail(upstream: FakeUpstream) -> None:
    ask = {"key": "k", "status": 503, "fail_times": 2, "chunks": 1}
    assert [whole(upstream, ask)[0] for _ in range(4)] == [503, 503, 200, 200]
    assert whole(upstream, {**ask, "key": "other"})[0] == 503


def test_stream_options_can_be_refused(upstream: FakeUpstream) -> None:
    assert whole(upstream, {"reject_stream_options": True}, stream=True, stream_options={})[0] == 400
    assert whole(upstream, {"reject_stream_options": True}, stream=True)[0] == 200


def test_mode_script_and_message_in_their_order(upstream: FakeUpstream) -> None:
    upstream.mode = {"status": 500}
    assert whole(upstream, "hello")[0] == 500
    assert whole(upstream, {"status": 418})[0] == 418
    upstream.script(lambda exchange: {"status": 403} if exchange.json["model"] == "m" else None)
    assert whole(upstream, {"status": 418})[0] == 403
    upstream.script(None)
    upstream.mode = None
    assert whole(upstream, "hello")[0] == 200


def test_a_misspelt_directive_is_an_error(upstream: FakeUpstream) -> None:
    whole(upstream, {"statsu": 500})
    assert "statsu" in upstream.mistakes.pop()
    with pytest.raises(ValueError, match="statsu"):
        upstream.mode = {"statsu": 1}


def test_models_health_and_strange_paths(upstream: FakeUpstream) -> None:
    upstream.models = ["a", "b"]

    def get(path: str) -> tuple[int, Any]:
        with client(upstream.port) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    assert [one["id"] for one in get("/v1/models")[1]["data"]] == ["a", "b"]
    assert get("/health")[0] == 200
    assert get("/nowhere")[0] == 404
    upstream.mode = {"status": 401, "err_code": "invalid_api_key"}
    assert get("/v1/models")[0] == 401
    assert [one.path for one in upstream.other_requests] == ["/v1/models", "/health", "/nowhere", "/v1/models"]
    assert upstream.total == 0


@pytest.mark.parametrize(
    ("form", "passed", "refused"),
    [
        ("openai", {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"}, {"retry-after-ms", "retry-after"}),
        ("azure", {"x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"}, {"retry-after-ms"}),
        ("retry-after", set(), {"retry-after"}),
        ("none", set(), set()),
    ],
)
def test_rate_limit_and_its_headers(upstream: FakeUpstream, form: str, passed: set[str], refused: set[str]) -> None:
    upstream.limit(rpm=1, burst=1, headers=form)
    status, headers, _ = whole(upstream)
    assert status == 200
    assert passed <= set(headers)
    assert not refused & set(headers)
    status, headers, body = whole(upstream)
    assert status == 429
    assert refused <= set(headers)
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
    assert upstream.rate_limit is not None
    assert upstream.rate_limit.refused == 1
    upstream.limit(0)
    assert whole(upstream)[0] == 200
