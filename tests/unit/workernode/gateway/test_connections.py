"""Connections to gateways are kept and shared, and none is used whose gateway may not read it."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from tests.support.gateway import FakeGateway
from tests.support.tls import server_context
from tests.support.wait import until
from tests.unit.workernode.gateway.replies import DATA, LONG, Stream, answered, chunk, kept, post, soon, speak
from workernode.gateway import AnswerResult, Gateways, connections, timing
from workernode.task import read_endpoint


class Front:
    """TLS in front of a gateway."""

    def __init__(self, gateway: FakeGateway, context: ssl.SSLContext) -> None:
        self._gateway, self._context = gateway, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                outer = self._context.wrap_socket(self._listener.accept()[0], server_side=True)
                self.connections += 1
                inner = socket.create_connection(("127.0.0.1", self._gateway.port))
                threading.Thread(target=self._pass, args=(outer, inner), daemon=True).start()

    def _pass(self, outer: ssl.SSLSocket, inner: socket.socket) -> None:
        with outer, inner, suppress(OSError):
            while True:
                readable = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
                for source, sink in ((outer, inner), (inner, outer)):
                    if source in readable:
                        data = source.recv(65536)
                        if not data:
                            return
                        sink.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_answers_and_streams_reach_a_gateway_behind_tls(
    gateways: Gateways, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = server_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with closing(Front(gateway, context)) as front:
        for number in range(3):
            ids = [f"plain-{number}", f"stream-{number}"]
            gateway.register(*ids)
            endpoint = read_endpoint(f"https://{front.address}/res")
            assert gateways.post(endpoint, ids[0], DATA, soon()) is AnswerResult.TAKEN
            endpoint = read_endpoint(f"wss://{front.address}/res/ws")
            stream = gateways.stream(endpoint, ids[1], time.monotonic(), soon(), lambda _: None)
            stream.send([chunk(0, 100_000)])
            stream.send([chunk(1)])
            assert stream.end() is AnswerResult.TAKEN
            assert len(gateway.answer(ids[1]).wait().chunks) == 2
            until(lambda: answered(gateways), LONG, "pong")
        assert gateway.faults() == []
        assert front.connections == 2


def test_connections_to_many_gateways_are_not_all_kept(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their addresses come from messages, so there has to be an end to it."""
    monkeypatch.setattr(connections, "KEPT_ORIGINS", 2)
    with ExitStack() as stack:
        others = [stack.enter_context(closing(FakeGateway())) for _ in range(3)]
        for each in (gateway, *others):
            each.register("a", "s")
            assert post(gateways, each) is AnswerResult.TAKEN
            assert speak(gateways, each, id="s") is AnswerResult.TAKEN
        until(lambda: not gateway.open_connections, LONG, "end of the first gateway's connections")
        assert len(others[-1].open_connections) == 2


def test_connections_to_a_gateway_that_is_not_used_any_more_are_closed_when_another_one_is_used(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that was started anew at another address leaves its connections behind, half closed."""
    with closing(FakeGateway()) as other:
        for each in (gateway, other):
            each.register("a", "s")
        assert post(gateways, gateway) is AnswerResult.TAKEN
        assert speak(gateways, gateway, id="s") is AnswerResult.TAKEN
        assert speak(gateways, other, id="s") is AnswerResult.TAKEN
        assert len(gateway.open_connections) == 2
        monkeypatch.setattr(timing, "GONE_AFTER", 1e-6)
        assert post(gateways, other) is AnswerResult.TAKEN
        until(lambda: not gateway.open_connections, LONG, "end of the first gateway's connections")


def test_streams_one_after_another_share_a_connection(gateways: Gateways, gateway: FakeGateway) -> None:
    for id in ("a", "b", "c"):
        gateway.register(id)
        assert speak(gateways, gateway, id) is AnswerResult.TAKEN
        gateway.answer(id).wait()
        until(lambda: answered(gateways), LONG, "pong")
    assert len(gateway.sockets) == 1
    assert gateway.sockets[0].ids == ["a", "b", "c"]
    assert gateway.faults() == []


def test_streams_at_the_same_time_have_connections_of_their_own(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a", "b")
    first, second = Stream(gateways, gateway, "a"), Stream(gateways, gateway, "b")
    for stream in (first, second):
        stream.reply.send([chunk(0)])
    for stream in (first, second):
        stream.reply.end()
    gateway.wait_all(["a", "b"])
    assert [one.ids for one in gateway.sockets] == [["a"], ["b"]]


def test_a_connection_that_answers_no_ping_is_not_used_again(gateways: Gateways, gateway: FakeGateway) -> None:
    """Its client may have left the gateway's reader blocked for ever: nobody would read the next stream."""
    gateway.register("a", "b")
    gateway.behave("a", no_pong=True)
    speak(gateways, gateway, "a")
    gateway.answer("a").wait()
    gateway.wait_until(lambda: gateway.sockets[0].pings == 1, LONG, "ping behind the end")
    speak(gateways, gateway, "b")
    gateway.answer("b").wait()
    assert [one.ids for one in gateway.sockets] == [["a"], ["b"]]


def test_a_connection_that_never_answers_is_closed_in_the_end(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "GONE_AFTER", 0.05)
    gateway.register("a", "b")
    gateway.behave("a", no_pong=True)
    speak(gateways, gateway, "a")
    gateway.answer("a").wait()
    first = gateway.connections[0]
    until(lambda: speak(gateways, gateway, "b") and first.closed_at, LONG, "end of the first")


def test_a_connection_that_closes_before_any_byte_was_sent_is_replaced(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    """While upstream is asked: the gateway does not know yet whose it is, so it reports nothing about the client."""
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    gateway.cut_connections()
    stream.reply.pause(0.3)
    stream.reply.send([chunk(0)])
    assert stream.reply.end() is AnswerResult.TAKEN
    assert gateway.answer("a").wait().text == "0"


@pytest.mark.parametrize("how", ["close_after_end", "cut", "restart"])
def test_a_kept_connection_that_the_gateway_closed_is_not_used(
    gateways: Gateways, gateway: FakeGateway, how: str
) -> None:
    gateway.register("a", "b")
    gateway.behave("a", close_after_end=how == "close_after_end")
    speak(gateways, gateway, "a")
    gateway.answer("a").wait()
    if how == "cut":
        gateway.cut_connections()
    elif how == "restart":
        gateway.down()
        gateway.up()
    if how == "close_after_end":
        until(lambda: not kept(gateways).read(), LONG, "close")
    else:
        until(lambda: not gateway.open_connections, LONG, "end of the connection")
    assert speak(gateways, gateway, "b") is AnswerResult.TAKEN
    assert gateway.answer("b").wait().text == "01"
    assert len(gateway.sockets) == 2


def test_a_connection_that_was_idle_for_long_is_not_used(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "KEPT_IDLE", 0.0)
    gateway.register("a", "b")
    speak(gateways, gateway, "a")
    gateway.answer("a").wait()
    until(lambda: answered(gateways), LONG, "pong")
    speak(gateways, gateway, "b")
    assert len(gateway.sockets) == 2


def test_a_connection_over_which_nothing_was_sent_is_kept(gateways: Gateways, gateway: FakeGateway) -> None:
    """The task went back to the broker before anything was sent."""
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    stream.reply.release()
    stream.reply.release()  # twice is legal
    until(lambda: answered(gateways), LONG, "pong")
    gateway.register("b")
    speak(gateways, gateway, "b")
    assert len(gateway.sockets) == 1
    assert stream.shown == []


def test_aborting_a_stream_closes_its_connection(gateways: Gateways, gateway: FakeGateway) -> None:
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    stream.reply.abort()
    gateway.wait_until(lambda: gateway.sockets[0].close_code == 1000, LONG, "goodbye")
    until(lambda: not gateway.open_connections, LONG, "end of the connection")
