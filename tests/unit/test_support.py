"""The stand-ins themselves: a fake that lies makes every test that trusts it lie too."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect

from tests.support.gateway import FakeGateway, raw_data
from tests.support.node import Node
from tests.support.upstream import FakeUpstream
from tests.support.wait import until, until_equal

TIMEOUT = 10


@contextmanager
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        yield connection


def chat(ask: str | dict[str, Any], **fields: Any) -> bytes:
    words = ask if isinstance(ask, str) else "lab:" + json.dumps(ask)
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": words}], **fields}).encode()


def begin(
    connection: http.client.HTTPConnection, ask: str | dict[str, Any] = "hello", **fields: Any
) -> http.client.HTTPResponse:
    connection.request("POST", "/v1/chat/completions", chat(ask, **fields), {"Authorization": "Bearer k"})
    return connection.getresponse()


def whole(
    upstream: FakeUpstream, ask: str | dict[str, Any] = "hello", **fields: Any
) -> tuple[int, dict[str, str], bytes]:
    with client(upstream.port) as connection:
        answer = begin(connection, ask, **fields)
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def collect(answer: http.client.HTTPResponse, pieces: list[bytes]) -> None:
    while piece := answer.read1():
        pieces.append(piece)


def events(body: bytes) -> list[str]:
    return [line.removeprefix("data:").strip() for line in body.decode().splitlines() if line.startswith("data:")]


# Waiting.


def test_until_gives_the_first_truthy_value() -> None:
    values = iter([0, "", 7])
    assert until(lambda: next(values), TIMEOUT, "a value") == 7


def test_until_fails_with_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"no bread within 0\.01 s; last seen: 0"):
        until(lambda: 0, 0.01, "bread")


def test_until_takes_a_failed_assertion_for_not_yet() -> None:
    left = [1, 2]

    def nearly() -> bool:
        assert not left, left.pop()
        return True

    assert until(nearly, TIMEOUT, "an empty list")


def test_until_equal_names_the_figure_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"no eight within .*last seen: .*7"):
        until_equal(lambda: 7, 8, 0.01, "eight")


# Upstream: what it answers.


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
    said = {"status": 429, "err_type": "insufficient_quota", "err_code": None, "err_msg": "no", "headers": {"X-A": "b"}}
    status, headers, body = whole(upstream, said)
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


# Upstream: what the socket does.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("directive", [{"reset": True}, {"cut_after": -1}])
def test_reset_before_any_byte(upstream: FakeUpstream, directive: dict[str, Any], stream: bool) -> None:
    with pytest.raises(ConnectionResetError):
        whole(upstream, directive, stream=stream)


def test_close_before_any_byte(upstream: FakeUpstream) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        whole(upstream, {"close": True})


def test_stream_cut_after_its_second_chunk(upstream: FakeUpstream) -> None:
    with client(upstream.port) as connection:
        answer = begin(connection, {"cut_after": 2}, stream=True)
        pieces: list[bytes] = []
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            collect(answer, pieces)
    assert len(events(b"".join(pieces))) == 3  # role and two


def test_plain_body_cut_and_truncated(upstream: FakeUpstream) -> None:
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        whole(upstream, {"cut_after": 20})
    with pytest.raises(http.client.IncompleteRead) as short:
        whole(upstream, {"truncated": True})
    assert json.loads(short.value.partial)["object"] == "chat.completion"


def test_truncated_stream_has_no_last_chunk(upstream: FakeUpstream) -> None:
    with pytest.raises(http.client.IncompleteRead) as short:
        whole(upstream, {"truncated": True}, stream=True)
    assert events(short.value.partial)[-1] == "[DONE]"


def test_wrong_length_promises_ten_bytes_less_than_it_sends(upstream: FakeUpstream) -> None:
    _, headers, body = whole(upstream, {"wrong_length": True})
    assert upstream.requests[0].sent[0][1].startswith(body.decode())
    assert len(upstream.requests[0].sent[0][1].encode()) == int(headers["content-length"]) + 10


def test_then_close_makes_a_kept_connection_stale(upstream: FakeUpstream) -> None:
    with client(upstream.port) as connection:
        answer = begin(connection, {"then_close": True})
        assert "Connection" not in answer.headers
        assert json.loads(answer.read())
        until_equal(lambda: len(upstream.open_connections), 0, TIMEOUT, "closed connection")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            begin(connection)


def test_gates_hold_answers_and_chunks(upstream: FakeUpstream) -> None:
    with client(upstream.port) as connection:
        connection.request("POST", "/v1/chat/completions", chat({"gate": "a", "gate_chunks": "c"}, stream=True))
        upstream.wait_for_waiting("a")
        assert upstream.inflight == 1
        upstream.open_gate("a")
        upstream.wait_for_waiting("c")
        answer = connection.getresponse()
        assert len(events(answer.read1())) == 1
        upstream.release("c", 2)
        assert [len(events(answer.readline() + answer.readline())) for _ in range(2)] == [1, 1]
        upstream.wait_for_waiting("c")
        upstream.open_gate("c")
        assert len(events(answer.read())) == 5
    upstream.wait_for_inflight(0)


def test_a_client_that_leaves_is_noticed_and_counted(upstream: FakeUpstream) -> None:
    before = time.time()
    for ask in ({"gate": "never"}, {"gate_chunks": "never"}, {"hang_ms": 60_000}, {"chunk_ms": 60_000}):
        with client(upstream.port) as connection:
            connection.request("POST", "/v1/chat/completions", chat(ask, stream=True))
            upstream.wait_for_inflight(1)
        upstream.wait_for_inflight(0)
    upstream.wait_for_cancelled(4)
    assert all(one.left_at and before <= one.left_at <= time.time() for one in upstream.requests)
    assert upstream.waiting_at("never") == 0


def test_a_client_that_does_not_read_holds_only_itself(upstream: FakeUpstream) -> None:
    with client(upstream.port) as lazy:
        lazy.request("POST", "/v1/chat/completions", chat({"big_mb": 32}))
        upstream.wait_for_inflight(1)
        assert whole(upstream)[0] == 200
    upstream.wait_for_cancelled(1)


def test_256_at_once(upstream: FakeUpstream) -> None:
    with ConnectionPool(upstream.port, 256) as connections:
        for connection in connections:
            connection.request("POST", "/v1/chat/completions", chat({"gate": "g"}))
        upstream.wait_for_inflight(256)
        upstream.open_gate("g")
        assert {connection.getresponse().status for connection in connections} == {200}
    assert upstream.peak == 256


class ConnectionPool:
    """So many connections to a port, closed together."""

    def __init__(self, port: int, count: int) -> None:
        self.all = [http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT) for _ in range(count)]

    def __enter__(self) -> list[http.client.HTTPConnection]:
        return self.all

    def __exit__(self, *_: object) -> None:
        for connection in self.all:
            connection.close()


def test_down_refuses_and_up_is_back_on_the_same_port(upstream: FakeUpstream) -> None:
    with client(upstream.port) as kept:
        assert begin(kept).read()
        upstream.down()
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected, BrokenPipeError)):
            begin(kept)
        with pytest.raises(ConnectionRefusedError):
            whole(upstream)
    upstream.up()
    assert whole(upstream)[0] == 200


def test_tls_upstream_is_trusted_only_with_its_authority(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    upstream, authority = tls_upstream

    def ask(context: ssl.SSLContext) -> int:
        with closing(
            http.client.HTTPSConnection("127.0.0.1", upstream.port, timeout=TIMEOUT, context=context)
        ) as connection:
            return begin(connection).status

    strict = ssl.create_default_context(cafile=str(authority))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    assert ask(strict) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(ssl.create_default_context())
    assert upstream.api_url.startswith("https://")
    assert upstream.total == 1


# Gateway.


def post(gateway: FakeGateway, id: str, data: object = None) -> int:
    with client(gateway.port) as connection:
        connection.request("POST", "/res", json.dumps({"request_id": id, "data": data}))
        return connection.getresponse().status


def frame(id: str, data: object = None, end: bool = False) -> str:
    return json.dumps({"request_id": id, "end": end} | ({} if data is None else {"data": data}), separators=(",", ":"))


def test_a_post_for_a_known_id_is_taken_once(gateway: FakeGateway) -> None:
    gateway.register("a")
    assert post(gateway, "a", {"choices": [{"message": {"content": "hi"}}]}) == 200
    answer = gateway.answer("a").wait()
    assert answer.text == "hi"
    assert answer.faults == []
    assert post(gateway, "a", 2) == 404
    assert answer.faults == ["a: 1 POSTs after it was answered"]
    assert answer.data != 2
    assert [one.status for one in answer.posts] == [200, 404]


def test_a_post_for_an_unknown_id_gets_404_until_it_is_registered(gateway: FakeGateway) -> None:
    assert post(gateway, "a") == 404
    assert gateway.unknown == ["a"]
    gateway.register_after(0.001, "a")
    until(lambda: post(gateway, "a") == 200, TIMEOUT, "200")
    gateway.register("b")
    gateway.forget("b")
    assert post(gateway, "b") == 404


def test_error_and_raw_data_of_an_answer(gateway: FakeGateway) -> None:
    gateway.register("a")
    with client(gateway.port) as connection:
        connection.request("POST", "/res", '{"request_id": "a", "data":  {"error": {"code": 1.50}} }')
        connection.getresponse().read()
    assert gateway.answer("a").error == {"code": 1.5}
    assert gateway.answer("a").raw_chunks == ['{"error": {"code": 1.50}}']
    assert raw_data('{"data":[1, 2],"request_id":"x"}') == "[1, 2]"


@pytest.mark.parametrize(
    "body", ["", "[]", "{", '{"request_id": 7}', '{"request_id":"a","data":NaN}', b'{"request_id":"\xff"}']
)
def test_malformed_posts_are_refused_and_kept(gateway: FakeGateway, body: str | bytes) -> None:
    with client(gateway.port) as connection:
        connection.request("POST", "/res", body)
        assert connection.getresponse().status == 400
    assert gateway.rubbish == [body if isinstance(body, bytes) else body.encode()]


def test_frames_end_and_what_comes_after(gateway: FakeGateway) -> None:
    gateway.register("a")
    with connect(gateway.ws_url) as link:
        link.send(frame("unknown", 1))
        for number in range(3):
            link.send(frame("a", number))
        link.send(frame("a", end=True))
        gateway.answer("a").wait()
        assert gateway.answer("a").faults == []
        link.send(frame("a", 9))
        link.send("no JSON")
        assert link.ping().wait(TIMEOUT)
        answer = gateway.answer("a")
        assert answer.chunks == [0, 1, 2]
        assert answer.ends == 1
        assert [one.data for one in answer.after_end] == [9]
        assert answer.faults == ["a: 1 frames after the end"]
        assert gateway.answer("unknown").dropped[0].data == 1
        assert gateway.unknown == ["unknown"]
        assert gateway.rubbish == [b"no JSON"]
    (socket_,) = gateway.sockets
    assert socket_.pings == 1
    assert socket_.ids == ["unknown", "a"]
    until(lambda: socket_.closed_at, TIMEOUT, "closed connection")
    assert socket_.close_code == 1000
    assert gateway.answer("a").connections == [socket_.connection.number]
    assert "sec-websocket-key" in socket_.headers


def test_frames_before_registration_are_dropped_silently(gateway: FakeGateway) -> None:
    with connect(gateway.ws_url) as link:
        link.send(frame("a", 1))
        gateway.wait_for_frames("a", 1)
        gateway.register("a")
        link.send(frame("a", 2))
        link.send(frame("a", end=True))
        answer = gateway.answer("a").wait()
    assert answer.chunks == [2]
    assert answer.faults == ["a: 1 frames before it was registered"]


def test_a_message_in_several_frames_is_one(gateway: FakeGateway) -> None:
    gateway.register("a")
    with connect(gateway.ws_url) as link:
        link.send(iter([frame("a", "wörd", end=True)[:20], frame("a", "wörd", end=True)[20:]]))
        assert gateway.answer("a").wait().data == "wörd"


def test_missing_answers_are_named(gateway: FakeGateway) -> None:
    gateway.register("a", "b")
    post(gateway, "a")
    with pytest.raises(AssertionError, match=r"1 of 2 answers missing .* b: registered"):
        gateway.wait_all(["a", "b"], timeout=0.01)
    assert gateway.faults(["a", "b"]) == ["b: no answer"]


@pytest.mark.parametrize(
    ("manners", "status"),
    [({"status": 503}, 503), ({"redirect_to": "http://127.0.0.1:9/"}, 307), ({"status": 413}, 413)],
)
def test_posts_are_refused_as_often_as_asked(gateway: FakeGateway, manners: dict[str, Any], status: int) -> None:
    gateway.register("a", "b")
    gateway.behave("a", **manners, times=2)
    assert [post(gateway, "a") for _ in range(3)] == [status, status, 200]
    assert post(gateway, "b") == 200
    assert gateway.answer("a").faults == []


def test_faults_for_all_ids_and_back_to_none(gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave(status=500)
    assert post(gateway, "a") == 500
    gateway.behave()
    assert post(gateway, "a") == 200
    with pytest.raises(ValueError, match="stauts"):
        gateway.behave(stauts=500)


def test_posts_that_hang_or_are_reset(gateway: FakeGateway) -> None:
    gateway.register("a", "b", "c", "d")
    gateway.behave("a", hang=True)
    gateway.behave("b", reset=True)
    gateway.behave("c", take_then_reset=True)
    gateway.behave("d", take_then_hang=True)
    for id in ("a", "d"):
        with client(gateway.port) as connection:
            connection.request("POST", "/res", json.dumps({"request_id": id, "data": 1}))
            gateway.wait_for_posts(id, 1)
    gateway.answer("d").wait()
    for id in ("b", "c"):
        with pytest.raises(ConnectionResetError):
            post(gateway, id)
    assert [gateway.answer(id).done.is_set() for id in "abcd"] == [False, False, True, True]


def test_upgrade_refused_redirected_and_hanging(gateway: FakeGateway) -> None:
    gateway.behave(upgrade_status=503, times=1)
    with pytest.raises(websockets.exceptions.InvalidStatus), connect(gateway.ws_url):
        pass
    with connect(gateway.ws_url):
        pass
    gateway.behave(upgrade_redirect_to="ws://127.0.0.1:9/")
    with client(gateway.port) as plain:
        plain.request("GET", "/res/ws", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert plain.getresponse().status == 307
    gateway.behave(upgrade_hang=True)
    with pytest.raises(TimeoutError), connect(gateway.ws_url, open_timeout=0.05):
        pass
    assert len(gateway.upgrades) == 4
    assert len(gateway.sockets) == 1


@contextmanager
def streaming(gateway: FakeGateway, **manners: Any) -> Iterator[ClientConnection]:
    gateway.register("a")
    gateway.behave("a", **manners)
    with connect(gateway.ws_url, close_timeout=0.05, ping_interval=None) as link:
        yield link


@pytest.mark.parametrize(("manners", "code"), [({"cut_after": 2}, 1006), ({"close_after": 2}, 1001)])
def test_connection_ends_after_so_many_frames(gateway: FakeGateway, manners: dict[str, Any], code: int) -> None:
    with streaming(gateway, **manners) as link:
        link.send(frame("a", 1))
        link.send(frame("a", 2))
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            link.recv(TIMEOUT)
        assert link.close_code == code
    assert gateway.answer("a").chunks == [1, 2]
    assert not gateway.answer("a").done.is_set()


def test_connection_cut_at_the_first_frame_loses_it(gateway: FakeGateway) -> None:
    with streaming(gateway, cut_after=0) as link:
        link.send(frame("a", 1))
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            link.recv(TIMEOUT)
    assert gateway.answer("a").chunks == []


def test_blocked_reader_gives_no_pong_and_fills_up(gateway: FakeGateway) -> None:
    with streaming(gateway, stop_reading_after=1) as link:
        link.send(frame("a", 1))
        gateway.wait_for_frames("a", 1)
        pong = link.ping()
        link.socket.settimeout(0.05)
        with pytest.raises(websockets.exceptions.ConnectionClosed):  # its send blocks in the kernel
            link.send(frame("a", "x" * (64 << 20)))
        assert not pong.is_set()
    assert gateway.answer("a").chunks == [1]


def test_reader_without_pongs_reads_on(gateway: FakeGateway) -> None:
    with streaming(gateway, no_pong=True) as link:
        link.send(frame("a", 1))
        pong = link.ping()
        link.send(frame("a", 2))
        link.send(frame("a", end=True))
        gateway.answer("a").wait()
        assert not pong.is_set()
    assert gateway.answer("a").chunks == [1, 2]


def test_slow_reader_gets_all_in_the_end(gateway: FakeGateway) -> None:
    with streaming(gateway, slow_read_ms=1) as link:
        for number in range(20):
            link.send(frame("a", f"{number:05}" * 200))
        link.send(frame("a", end=True))
        assert len(gateway.answer("a").wait().chunks) == 20


def test_connection_closed_by_the_gateway_after_the_end(gateway: FakeGateway) -> None:
    with streaming(gateway, close_after_end=True) as link:
        link.send(frame("a", 1))
        link.send(frame("a", end=True))
        with pytest.raises(websockets.exceptions.ConnectionClosedOK):
            link.recv(TIMEOUT)
    assert gateway.answer("a").faults == []


def test_gateway_down_and_up_again(gateway: FakeGateway) -> None:
    gateway.register("a")
    with connect(gateway.ws_url) as link:
        gateway.down()
        with pytest.raises(websockets.exceptions.ConnectionClosedError):
            link.recv(TIMEOUT)
    with pytest.raises(ConnectionRefusedError):
        post(gateway, "a")
    gateway.up()
    assert post(gateway, "a") == 200


def test_200_websockets_at_once(gateway: FakeGateway) -> None:
    ids = [f"id-{number}" for number in range(200)]
    gateway.register(*ids)
    links = [RawWebSocket(gateway.port) for _ in ids]
    for link, id in zip(links, ids, strict=True):
        link.send(frame(id, 1))
    for link, id in zip(links, ids, strict=True):
        link.send(frame(id, end=True))
    gateway.wait_all(ids)
    assert gateway.faults(ids) == []
    assert len(gateway.open_connections) == 200
    for link in links:
        link.close()
    gateway.wait_until(lambda: not gateway.open_connections, TIMEOUT, "end of all connections")


class RawWebSocket:
    """A client without threads: masked text frames of less than 126 bytes."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.sock.sendall(
            b"GET /res/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert self.sock.recv(4096).startswith(b"HTTP/1.1 101")

    def send(self, text: str) -> None:
        self.sock.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode())

    def close(self) -> None:
        self.sock.close()


# The node as a process: with a stand-in that starts children and talks.

STAND_IN = """
import json, os, signal, subprocess, sys, threading, http.server, multiprocessing, time

def sleep(): time.sleep(600)

class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = os.path.exists("ready")
        text = b'# HELP x\\nx_total{a="b c"} 2.0\\n' if self.path == "/metrics" else b"because"
        self.send_response(200 if ready or self.path == "/metrics" else 503)
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_): pass

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    start = multiprocessing.get_context("forkserver")
    for _ in range(2): start.Process(target=sleep).start()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    told = {"message": "started", "canary": os.environ.get("CANARY"), "names": sorted(os.environ)}
    print(json.dumps(told), flush=True)
    print("plain words", file=sys.stderr, flush=True)
    host, port = os.environ["STATUS_ADDR"].split(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        while True: time.sleep(600)
    finally:
        os._exit(7)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Node]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    with Node({"CANARY": 5, "ABSENT": None}, tmp_path, command=[sys.executable, str(script)]) as node:
        yield node


def test_node_is_ready_when_readyz_says_so(stand_in: Node, tmp_path: Path) -> None:
    assert "because" in stand_in.wait_not_ready()
    (tmp_path / "ready").touch()
    assert stand_in.wait_ready() is stand_in
    assert stand_in.metrics() == {'x_total{a="b c"}': 2.0}


def test_node_has_only_the_environment_it_is_given(stand_in: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.wait_log("plain words")
    until(stand_in.logs, TIMEOUT, "JSON line")
    (told,) = stand_in.logs()
    assert told["canary"] == "5"
    assert set(told["names"]) - {"LC_CTYPE"} == {"PATH", "HOME", "STATUS_ADDR", "CANARY", "NODE_UNDER_TEST"}
    assert stand_in.stderr_lines == ["plain words"]
    assert "plain words" in stand_in.tail()


def test_workers_are_the_forkserver_s_children(stand_in: Node) -> None:
    until_equal(lambda: len(stand_in.workers()), 2, TIMEOUT, "two workers")
    assert len(stand_in.tree()) == 5  # two workers, forkserver, resource tracker, the detached child
    assert stand_in.rss_bytes() > 1 << 20
    os.kill(stand_in.workers()[0], signal.SIGKILL)
    until_equal(lambda: len(stand_in.workers()), 1, TIMEOUT, "one worker")


def test_orphans_of_a_killed_node_are_found_and_killed(stand_in: Node) -> None:
    stand_in.wait_log("plain words")
    until_equal(lambda: len(stand_in.workers()), 2, TIMEOUT, "two workers")
    stand_in.kill()
    assert stand_in.wait_exit() == -signal.SIGKILL
    assert len(stand_in.processes_left()) >= 1  # the detached child lives on
    with pytest.raises(AssertionError, match="no end of all processes"):
        stand_in.wait_gone(0.01)
    stand_in.close()
    assert stand_in.processes_left() == []


def test_sigterm_and_the_exit_code(stand_in: Node, tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    stand_in.wait_ready().sigterm()
    assert stand_in.wait_exit() == 7
    assert not stand_in.running


def test_a_node_that_exits_at_once_raises_an_error_with_its_log(tmp_path: Path) -> None:
    with Node({}, tmp_path, command=[sys.executable, "-c", "print('no luck'); raise SystemExit(78)"]) as node:
        with pytest.raises(RuntimeError, match=r"exited with 78(.|\n)*no luck"):
            node.wait_ready()
        assert node.wait_exit() == 78


def test_threads_of_a_closed_fake_are_gone() -> None:
    before = threading.active_count()
    for fake in (FakeUpstream(), FakeGateway()):
        fake.close()
        fake.close()
    assert threading.active_count() == before
