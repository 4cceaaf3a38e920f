"""Answers of a server that misbehaves: every exchange ends, and ends as what it is."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.workernode.net.exchanges import LONG, ask, pool_of, server, whole
from workernode.net import exchange
from workernode.net.errors import AnswerTooLarge
from workernode.net.http_client import Pool

# --- the head ---


def test_names_of_headers_are_in_lower_case(pool: Pool) -> None:
    asked = ask(pool, {"headers": {"X-RateLimit-Remaining-Requests": "7"}})
    assert asked.headers["x-ratelimit-remaining-requests"] == "7"
    asked.abort()


def drip_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.01)


def read_on(connection: socket.socket) -> None:
    """Answer nothing, until the client leaves."""
    while connection.recv(65536):
        pass


@pytest.mark.parametrize(
    ("talk", "error"),
    [
        pytest.param(lambda c: c.sendall(b"SSH-2.0-OpenSSH_9\r\n"), http.client.HTTPException, id="another_protocol"),
        pytest.param(lambda c: c.sendall(b"\x00" * 100_000), http.client.HTTPException, id="binary"),
        pytest.param(lambda c: c.sendall(b"HTTP/1.1 abc\r\n\r\n"), http.client.HTTPException, id="no_status"),
        pytest.param(
            lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
            http.client.HTTPException,
            id="endless_line",
        ),
        pytest.param(
            lambda c: c.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000), http.client.HTTPException, id="many_lines"
        ),
        pytest.param(drip_head, TimeoutError, id="dripped_head"),
        pytest.param(read_on, TimeoutError, id="no_head"),
    ],
)
def test_a_head_that_is_none_is_an_error(talk: Callable[[socket.socket], None], error: type[Exception]) -> None:
    with server(talk) as port, pytest.raises(error):
        ask(pool_of(port), deadline=time.monotonic() + 0.3)


def test_a_refusal_is_read_even_if_the_server_stops_reading() -> None:
    """Some answer 413 by the Content-Length alone: their answer counts, not the connection that breaks after it."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")

    with server(refuse) as port:
        asked = pool_of(port).post("/", {}, b"x" * (8 << 20), deadline=time.monotonic() + LONG, silence=LONG)
        assert (asked.status, asked.read_all()) == (413, b"no")
        asked.abort()


# --- the body ---


@pytest.mark.parametrize(
    "framing", [{}, {"close_delimited": True}, {"stream": True}, {"stream": True, "close_delimited": True}]
)
def test_a_body_is_read_whole_however_it_is_framed(upstream: FakeUpstream, pool: Pool, framing: dict[str, Any]) -> None:
    body = whole(pool, framing)
    events = [data for _, data in upstream.requests[0].sent]
    assert body.decode() == ("".join(f"data: {data}\n\n" for data in events) if "stream" in framing else events[0])
    assert whole(pool)
    assert (upstream.requests[1].connection == 1) is ("close_delimited" not in framing)


@pytest.mark.parametrize("framing", [{}, {"close_delimited": True}])
def test_a_piece_arrives_before_the_next_one_is_sent(
    upstream: FakeUpstream, pool: Pool, framing: dict[str, Any]
) -> None:
    asked = ask(pool, {"stream": True, "chunks": 2, "gate_chunks": "g", **framing})
    assert b'"role"' in asked.read_some()
    for number in range(2):
        assert not asked.at_hand()
        upstream.release("g")
        assert f"wörd {number}".encode() in asked.read_some()
    upstream.release("g")
    assert asked.read_all().endswith(b"data: [DONE]\n\n")
    asked.finish()


def test_what_has_come_together_is_one_piece_and_what_has_come_since_is_at_hand() -> None:
    more = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n")
        more.wait(LONG)
        connection.sendall(b"5\r\nthree\r\n0\r\n\r\n")
        connection.recv(1)

    with server(answer) as port:
        asked = ask(pool_of(port))
        assert asked.read_some() == b"onetwo"
        assert not asked.at_hand()
        more.set()
        until(asked.at_hand, LONG, "the third")
        assert asked.read_all() == b"three"
        assert not asked.at_hand()
        asked.abort()


def test_what_came_before_a_body_broke_is_read_first() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\nno length\r\n")
        connection.recv(1)

    with server(answer) as port:
        asked = ask(pool_of(port))
        assert asked.read_some() == b"one"
        assert not asked.at_hand()
        with pytest.raises(http.client.HTTPException, match="not HTTP"):
            asked.read_some()
        asked.abort()


HEADS = {
    "lf": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "early_hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "no_reason": b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 4\r\n\r\nbody",
    "twice_framed": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "padded_size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4  \r\nbody\r\n0\r\nTrailer: x\r\n\r\n",
    "latin_1": b"HTTP/1.1 200 OK\r\nServer: caf\xe9\r\nContent-Length: 4\r\n\r\nbody",
}


@pytest.mark.parametrize("answer", HEADS.values(), ids=HEADS.keys())
def test_an_unusual_head_is_read(answer: bytes) -> None:
    """At once, and byte by byte."""
    for step in (len(answer), 1):

        def drip(connection: socket.socket, step: int = step) -> None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(10_000)
            for start in range(0, len(answer), step):
                connection.sendall(answer[start : start + step])
            connection.recv(1)

        with server(drip) as port:
            asked = ask(pool_of(port))
            assert (asked.status, asked.read_all()) == (200, b"body")
            assert "link" not in asked.headers
            assert "trailer" not in asked.headers
            asked.abort()


def test_a_second_answer_without_a_request_is_never_read() -> None:
    asked_for = []

    def answer(connection: socket.socket) -> None:
        asked_for.append(connection.recv(10_000))
        one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
        connection.sendall(one + b"HTTP/1.1 500 Oh\r\nX: y\r\nContent-Length: 3\r\n\r\ntwo")
        connection.recv(1)

    with server(answer) as port:
        pool = pool_of(port)
        for _ in range(2):
            asked = ask(pool)
            assert (asked.status, asked.read_all()) == (200, b"one")
            assert "x" not in asked.headers
            asked.finish()
        assert len(asked_for) == 2
        pool.close()


def test_a_dripped_body_ends_with_the_deadline(pool: Pool) -> None:
    asked = ask(pool, {"drip_ms": 10, "size": 2000}, deadline=time.monotonic() + 0.3)
    with pytest.raises(TimeoutError, match="no time is left"):
        asked.read_all()
    asked.abort()


def test_a_silence_ends_a_body(pool: Pool) -> None:
    asked = ask(pool, {"stream": True, "gate_chunks": "never"}, silence=0.1)
    with pytest.raises(TimeoutError, match="silent"):
        asked.read_all()
    asked.abort()


def test_a_silence_ends_the_wait_for_a_head(upstream: FakeUpstream, pool: Pool) -> None:
    with pytest.raises(TimeoutError, match="silent"):
        ask(pool, {"hang_ms": 60_000}, silence=0.1)
    upstream.wait_for_cancelled()


CUT = {
    "length_too_large": {"truncated": True},
    "no_last_chunk": {"stream": True, "truncated": True},
    "reset": {"cut_after": 20},
    "reset_of_a_stream": {"stream": True, "cut_after": 2},
}


@pytest.mark.parametrize("directive", CUT.values(), ids=CUT.keys())
def test_a_body_that_was_cut_is_an_error(upstream: FakeUpstream, pool: Pool, directive: dict[str, Any]) -> None:
    asked = ask(pool, directive)
    with pytest.raises((http.client.IncompleteRead, OSError)):
        asked.read_all()
    asked.abort()
    assert whole(pool), "the next one gets an answer of its own"


def test_what_is_beyond_the_announced_length_never_reaches_the_next_answer(upstream: FakeUpstream, pool: Pool) -> None:
    assert not whole(pool, {"wrong_length": True}).endswith(b"}")
    answer = json.loads(whole(pool, {"chunks": 3}))
    assert answer["usage"]["completion_tokens"] == 3


def test_a_limit_set_later_holds(pool: Pool) -> None:
    asked = ask(pool, {"stream": True, "gate_chunks": "never"})
    asked.read_some()
    asked.limit(time.monotonic() + 0.1)
    with pytest.raises(TimeoutError, match="no time is left"):
        asked.read_all()
    asked.abort()


# --- limits ---


def test_an_answer_that_announces_more_than_64_mib_is_refused_at_once(upstream: FakeUpstream, pool: Pool) -> None:
    with pytest.raises(AnswerTooLarge, match="64 MiB"):
        ask(pool, {"big_mb": 64})
    upstream.wait_for_cancelled()


def test_an_answer_of_exactly_the_limit_is_taken(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    size = len(whole(pool, {"size": 1000}))
    monkeypatch.setattr(exchange, "MAX_ANSWER", size)
    assert len(whole(pool, {"size": 1000})) == size
    monkeypatch.setattr(exchange, "MAX_ANSWER", size - 1)
    with pytest.raises(AnswerTooLarge):
        ask(pool, {"size": 1000})


@pytest.mark.parametrize(
    "directive",
    [
        pytest.param({"stream": True, "big_mb": 2}, id="chunked"),
        pytest.param({"close_delimited": True, "big_mb": 2}, id="close_delimited"),
        pytest.param({"gzip_bomb_mb": 2}, id="gzip"),
        pytest.param({"stream": True, "gzip_bomb_mb": 2}, id="gzip_of_a_stream"),
    ],
)
def test_an_answer_that_grows_past_the_limit_is_given_up(
    monkeypatch: pytest.MonkeyPatch, pool: Pool, directive: dict[str, Any]
) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER", 1 << 20)
    asked = ask(pool, directive)
    with pytest.raises(AnswerTooLarge):
        asked.read_all()
    asked.abort()


def test_a_bomb_is_never_inflated_beyond_the_limit(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER", 1 << 20)
    asked = ask(pool, {"gzip_bomb_mb": 30})
    sizes = []
    with pytest.raises(AnswerTooLarge):
        sizes += [len(piece) for piece in iter(asked.read_some, b"")]
    asked.abort()
    assert sum(sizes) <= 1 << 20


@pytest.mark.parametrize(
    "directive", [{"gzip_bomb_mb": 1}, {"stream": True, "gzip_bomb_mb": 1}], ids=["plain", "stream"]
)
def test_an_answer_that_is_compressed_unasked_is_read(pool: Pool, directive: dict[str, Any]) -> None:
    body = whole(pool, directive)
    assert len(body) > 1 << 20
    assert b"chat.completion" in body


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br"])
def test_an_encoding_that_was_not_asked_for_is_an_error(pool: Pool, encoding: str) -> None:
    with pytest.raises(http.client.HTTPException, match="not asked for"):
        ask(pool, {"headers": {"Content-Encoding": encoding}})


@pytest.mark.parametrize("encoding", ["none", "utf-8", "UTF8", "identity", "8bit", ""])
def test_an_encoding_that_is_none_changes_nothing(pool: Pool, encoding: str) -> None:
    """getgrav/grav#2619; curl, browsers and urllib3 read such a body as it is."""
    assert b"chat.completion" in whole(pool, {"headers": {"Content-Encoding": encoding}})


def test_a_body_that_does_not_match_its_encoding_is_an_error(pool: Pool) -> None:
    asked = ask(pool, {"headers": {"Content-Encoding": "gzip"}})
    with pytest.raises(http.client.HTTPException, match="does not fit its content-encoding"):
        asked.read_all()
    asked.abort()
