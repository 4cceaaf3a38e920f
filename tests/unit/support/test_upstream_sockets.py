"""What the double of upstream does with its sockets: cuts, resets, silence (tests/support/upstream)."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import ssl
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.upstream import FakeUpstream
from tests.support.wait import until_equal
from tests.unit.support.http_client import TIMEOUT, begin, chat, client, collect, events, whole


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


@pytest.mark.parametrize("turns", range(4))
def test_a_connection_that_comes_as_the_server_is_closed_is_closed_with_it(turns: int) -> None:
    """What nobody closes is reported by Python, in whichever test runs then (PytestUnraisableExceptionWarning)."""
    server = FakeUpstream()

    async def connect_and_stop() -> socket.socket:
        one = socket.create_connection(("127.0.0.1", server.port))  # the kernel takes it, the server a turn later
        for _ in range(turns):
            await asyncio.sleep(0)
        await server._stop()
        return one

    with server.run(connect_and_stop()):
        server.close()
    gc.collect()
