"""The way back, against a gateway that misbehaves: exactly one answer or one end, and every way of giving up ends."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.support.tls import server_context
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode.errors import ClientGone
from workernode.gateway import reply
from workernode.gateway.reply import Delivery, Gateways, StreamReply
from workernode.net import websocket
from workernode.net.websocket import WebSocket
from workernode.protocol import AnswerState
from workernode.task import Endpoint, read_endpoint

FRAME_AFTER = reply.FRAME_AFTER
LONG = 20.0  # seconds: what must end sooner by something else
DATA = b'{"id": "x",  "choices": [{"message": {"content": "h\xc3\xa4llo"}}]}'


@pytest.fixture
def gateways() -> Iterator[Gateways]:
    made = Gateways(5.0)
    yield made
    for pool in made._pools.values():
        pool.close()
    for kept in made._sockets.values():
        for link, _ in kept:
            link.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, and late answers are not offered for long."""
    monkeypatch.setattr(reply, "_backoff", lambda state: 0.02)
    monkeypatch.setattr(reply, "SHORTEST_OFFER", 0.3)
    monkeypatch.setattr(reply, "FRAME_AFTER", 0.0)


def soon(seconds: float = LONG) -> float:
    return time.monotonic() + seconds


# --- POST ---


def post(gateways: Gateways, gateway: FakeGateway, id: str = "a", seconds: float = LONG) -> Delivery:
    return gateways.post(read_endpoint(gateway.post_url), id, DATA, soon(seconds))


def test_an_answer_is_posted_byte_for_byte(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("ä")
    assert post(gateways, gateway, "ä") is Delivery.TAKEN
    (one,) = gateway.answer("ä").posts
    assert one.body == b'{"request_id":"\\u00e4","data":' + DATA + b"}"
    assert one.headers["content-type"] == "application/json"
    assert one.headers["host"] == gateway.address


def test_answers_share_a_connection(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a", "b")
    assert (post(gateways, gateway, "a"), post(gateways, gateway, "b")) == (Delivery.TAKEN, Delivery.TAKEN)
    assert {one.connection for one in gateway.posts} == {1}


def test_an_id_that_is_registered_a_moment_later_gets_its_answer(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register_after(0.5, "a")
    assert post(gateways, gateway) is Delivery.TAKEN
    assert gateway.answer("a").posts[0].status == 404


def test_an_id_that_nobody_registers_has_no_client(gateways: Gateways, gateway: FakeGateway) -> None:
    start = time.monotonic()
    assert post(gateways, gateway) is Delivery.GONE
    assert time.monotonic() - start >= 1.0, "a second is what registering may take"
    assert {one.status for one in gateway.posts} == {404}


def test_a_gateway_that_comes_back_gets_the_answer(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.down()
    threading.Timer(0.2, gateway.up).start()
    assert post(gateways, gateway) is Delivery.TAKEN


def test_a_gateway_that_stays_away_is_unreachable_when_the_time_is_over(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    gateway.down()
    assert post(gateways, gateway, seconds=0.5) is Delivery.UNREACHABLE


def test_an_answer_that_is_late_is_offered_all_the_same(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    assert post(gateways, gateway, seconds=-100) is Delivery.TAKEN


@pytest.mark.parametrize("manners", [{"hang": True}, {"take_then_hang": True}], ids=["refused", "taken"])
def test_a_post_that_hangs_ends_and_is_not_repeated(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, manners: dict[str, Any]
) -> None:
    """The gateway's handler hangs where its client has just left; the answer may have been taken, or not."""
    monkeypatch.setattr(reply, "POST_TIME", 0.2)
    gateway.register("a")
    gateway.behave("a", **manners)
    assert post(gateways, gateway) is Delivery.UNCONFIRMED
    assert len(gateway.posts) == 1


PASSING: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "408": {"status": 408},
    "429": {"status": 429},
    "reset": {"reset": True},
    "slow": {"delay_ms": 100},
}


@pytest.mark.parametrize("manners", PASSING.values(), ids=PASSING.keys())
def test_a_gateway_in_trouble_is_offered_the_answer_again(
    gateways: Gateways, gateway: FakeGateway, manners: dict[str, Any]
) -> None:
    gateway.register("a")
    gateway.behave("a", times=3, **manners)
    assert post(gateways, gateway) is Delivery.TAKEN
    assert gateway.faults() == []


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413])
def test_a_gateway_that_says_no_is_not_asked_again(gateways: Gateways, gateway: FakeGateway, status: int) -> None:
    gateway.behave("a", status=status)
    assert post(gateways, gateway) is Delivery.REFUSED
    assert len(gateway.posts) == 1


def test_an_answer_does_not_follow_redirects(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave("a", redirect_to=gateway.post_url)
    assert post(gateways, gateway) is Delivery.REFUSED
    assert len(gateway.posts) == 1


def test_an_answer_taken_by_a_gateway_that_broke_off_is_not_offered_for_ever(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    gateway.register("a")
    gateway.behave("a", take_then_reset=True)
    assert post(gateways, gateway) is Delivery.GONE
    assert sum(one.taken for one in gateway.posts) == 1


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1"])
def test_an_address_where_nobody_is_ends(gateways: Gateways, host: str) -> None:
    assert gateways.post(Endpoint(False, host, 1, "/res"), "a", DATA, soon(0)) is Delivery.UNREACHABLE


def test_an_answer_is_not_given_to_a_gateway_whose_certificate_nobody_vouches_for(
    gateways: Gateways, tls_upstream: tuple[FakeUpstream, Path]
) -> None:
    fake, _ = tls_upstream
    assert gateways.post(read_endpoint(f"{fake.url}/res"), "a", DATA, soon(0)) is Delivery.UNREACHABLE
    assert not fake.other_requests


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
            assert gateways.post(endpoint, ids[0], DATA, soon()) is Delivery.TAKEN
            endpoint = read_endpoint(f"wss://{front.address}/res/ws")
            stream = gateways.stream(endpoint, ids[1], time.monotonic(), soon(), lambda _: None)
            stream.send([chunk(0, 100_000)])
            stream.send([chunk(1)])
            assert stream.end() is Delivery.TAKEN
            assert len(gateway.answer(ids[1]).wait().chunks) == 2
            until(lambda: _answered(gateways), LONG, "pong")
        assert gateway.faults() == []
        assert front.connections == 2


def test_connections_to_many_gateways_are_not_all_kept(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their addresses come from messages, so there has to be an end to it."""
    monkeypatch.setattr(reply, "KEPT_ORIGINS", 2)
    with ExitStack() as stack:
        others = [stack.enter_context(closing(FakeGateway())) for _ in range(3)]
        for each in (gateway, *others):
            each.register("a", "s")
            assert post(gateways, each) is Delivery.TAKEN
            assert speak(gateways, each, id="s") is Delivery.TAKEN
        until(lambda: not gateway.open_connections, LONG, "end of the first gateway's connections")
        assert len(others[-1].open_connections) == 2


# --- streams ---


class Stream:
    """The way back of one stream, and what was shown of it."""

    def __init__(self, gateways: Gateways, gateway: FakeGateway, id: str = "a", seconds: float = LONG) -> None:
        self.shown: list[AnswerState] = []
        self.began = time.monotonic()
        endpoint = read_endpoint(gateway.ws_url)
        self.reply: StreamReply = gateways.stream(endpoint, id, self.began, soon(seconds), self.shown.append)


def chunk(number: int, size: int = 0) -> bytes:
    return b'{"choices": [{"delta": {"content": "%d%b"}}]}' % (number, b"x" * size)


def speak(gateways: Gateways, gateway: FakeGateway, id: str = "a", chunks: int = 2, seconds: float = LONG) -> Delivery:
    """A stream that goes well on the node's side."""
    stream = Stream(gateways, gateway, id, seconds)
    stream.reply.connect()
    stream.reply.send([chunk(number) for number in range(chunks)])
    return stream.reply.end()


def test_a_stream_is_its_chunks_byte_for_byte_and_one_end(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("ä")
    stream = Stream(gateways, gateway, "ä")
    stream.reply.send([chunk(0)])
    assert stream.shown == [AnswerState.STARTED]
    stream.reply.send([chunk(1), chunk(2)])
    assert stream.reply.end() is Delivery.TAKEN
    assert stream.shown == [AnswerState.STARTED, AnswerState.ENDING, AnswerState.ENDED]
    answer = gateway.answer("ä").wait()
    head = '{"request_id":"\\u00e4","end":'
    assert [one.text for one in answer.frames] == [
        *(head + 'false,"data":' + chunk(number).decode() + "}" for number in range(3)),
        head + "true}",
    ]
    assert gateway.faults() == []


def test_an_error_is_the_last_chunk(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    assert stream.reply.end(b'{"error":{"message":"no"}}') is Delivery.TAKEN
    answer = gateway.answer("a").wait()
    assert [one.end for one in answer.frames] == [False, False, True]
    assert answer.error == {"message": "no"}


def test_a_stream_that_is_nothing_but_an_error(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    stream = Stream(gateways, gateway)
    assert stream.reply.end(b'{"error":{"message":"no"}}') is Delivery.TAKEN
    assert stream.shown == [AnswerState.STARTED, AnswerState.ENDING, AnswerState.ENDED]
    assert gateway.answer("a").wait().error == {"message": "no"}


@pytest.mark.parametrize("first", ["chunk", "end"])
def test_no_frame_leaves_before_the_gateway_can_know_the_id(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(reply, "FRAME_AFTER", FRAME_AFTER)
    assert FRAME_AFTER >= 0.1, "spec 1.2"
    gateway.register("a")
    stream = Stream(gateways, gateway)
    if first == "chunk":
        stream.reply.send([chunk(0)])
        assert time.monotonic() - stream.began >= FRAME_AFTER
    stream.reply.end(None if first == "chunk" else b"{}")
    assert time.monotonic() - stream.began >= FRAME_AFTER


def test_what_is_shown_is_shown_before_it_leaves(gateways: Gateways, gateway: FakeGateway) -> None:
    """A worker may be killed at any instant: what has left must never be more than what was shown."""
    gateway.register("a")
    left: list[tuple[AnswerState, int, int]] = []

    def show(state: AnswerState) -> None:
        answer = gateway.answer("a")
        left.append((state, len(answer.frames), answer.ends))

    stream = gateways.stream(read_endpoint(gateway.ws_url), "a", time.monotonic(), soon(), show)
    stream.send([chunk(0)])
    stream.end()
    assert left[0] == (AnswerState.STARTED, 0, 0)
    assert left[1][::2] == (AnswerState.ENDING, 0)
    assert left[2][0] is AnswerState.ENDED


# --- kept connections ---


def test_streams_one_after_another_share_a_connection(gateways: Gateways, gateway: FakeGateway) -> None:
    for id in ("a", "b", "c"):
        gateway.register(id)
        assert speak(gateways, gateway, id) is Delivery.TAKEN
        gateway.answer(id).wait()
        until(lambda: _answered(gateways), LONG, "pong")
    assert len(gateway.sockets) == 1
    assert gateway.sockets[0].ids == ["a", "b", "c"]
    assert gateway.faults() == []


def _kept(gateways: Gateways) -> WebSocket:
    """The one connection that is kept."""
    ((socket, _),) = next(iter(gateways._sockets.values()))
    return socket


def _answered(gateways: Gateways) -> bool:
    socket = _kept(gateways)
    return socket.read() and socket.answered


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
    monkeypatch.setattr(reply, "GONE_AFTER", 0.05)
    gateway.register("a", "b")
    gateway.behave("a", no_pong=True)
    speak(gateways, gateway, "a")
    gateway.answer("a").wait()
    first = gateway.connections[0]
    until(lambda: speak(gateways, gateway, "b") and first.closed_at, LONG, "end of the first")


def test_a_connection_that_closes_before_anything_was_said_over_it_is_replaced(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    """While upstream is asked: the gateway does not know yet whose it is, so it says nothing of the client."""
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    gateway.cut_connections()
    stream.reply.pause(0.3)
    stream.reply.send([chunk(0)])
    assert stream.reply.end() is Delivery.TAKEN
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
        until(lambda: not _kept(gateways).read(), LONG, "close")
    else:
        until(lambda: not gateway.open_connections, LONG, "end of the connection")
    assert speak(gateways, gateway, "b") is Delivery.TAKEN
    assert gateway.answer("b").wait().text == "01"
    assert len(gateway.sockets) == 2


def test_a_connection_that_was_idle_for_long_is_not_used(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "KEPT_IDLE", 0.0)
    gateway.register("a", "b")
    speak(gateways, gateway, "a")
    gateway.answer("a").wait()
    until(lambda: _answered(gateways), LONG, "pong")
    speak(gateways, gateway, "b")
    assert len(gateway.sockets) == 2


def test_a_connection_for_nothing_is_kept(gateways: Gateways, gateway: FakeGateway) -> None:
    """The task went back to the broker before anything was said."""
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    stream.reply.release()
    stream.reply.release()  # twice is legal
    until(lambda: _answered(gateways), LONG, "pong")
    gateway.register("b")
    speak(gateways, gateway, "b")
    assert len(gateway.sockets) == 1
    assert stream.shown == []


def test_a_stream_without_a_client_is_given_up_with_its_connection(gateways: Gateways, gateway: FakeGateway) -> None:
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    stream.reply.abort()
    gateway.wait_until(lambda: gateway.sockets[0].close_code == 1000, LONG, "goodbye")
    until(lambda: not gateway.open_connections, LONG, "end of the connection")


# --- a gateway that is not there ---


def test_chunks_are_held_until_the_gateway_is_back(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.down()
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    for number in range(3):
        stream.reply.send([chunk(number)])
    assert (stream.shown, stream.reply.begun) == ([], False)
    threading.Timer(0.2, gateway.up).start()
    assert stream.reply.end() is Delivery.TAKEN
    assert gateway.answer("a").wait().text == "012"
    assert gateway.faults() == []


def test_a_gateway_that_is_back_gets_what_was_held_with_the_next_chunk(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    gateway.register("a")
    gateway.down()
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    gateway.up()
    until(lambda: stream.reply.due < time.monotonic(), LONG, "time for the next attempt")
    stream.reply.send([chunk(1)])
    assert [one.data["choices"][0]["delta"]["content"] for one in gateway.wait_for_frames("a", 2)] == ["0", "1"]
    stream.reply.end()


def test_a_gateway_that_stays_away_is_unreachable_to_a_stream(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.down()
    assert speak(gateways, gateway, seconds=0.5) is Delivery.UNREACHABLE


def test_what_is_held_has_an_end(gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "MAX_HELD", 10_000)
    gateway.down()
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    with pytest.raises(ClientGone, match="too large"):
        stream.reply.send([chunk(1, 10_000)])


def test_a_long_stream_is_not_counted_as_held(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "MAX_HELD", 10_000)
    gateway.register("a")
    stream = Stream(gateways, gateway)
    for number in range(10):
        stream.reply.send([chunk(number, 5_000)])
    assert stream.reply.end() is Delivery.TAKEN


@pytest.mark.parametrize("manners", [{"upgrade_status": 503}, {"upgrade_status": 429}, {"upgrade_status": 404}])
def test_a_gateway_that_refuses_for_a_moment_gets_the_stream(
    gateways: Gateways, gateway: FakeGateway, manners: dict[str, Any]
) -> None:
    gateway.register("a")
    gateway.behave(times=2, **manners)
    assert speak(gateways, gateway) is Delivery.TAKEN
    assert gateway.answer("a").wait().text == "01"


def test_a_gateway_that_hangs_at_the_upgrade_gets_the_stream_later(gateways: Gateways, gateway: FakeGateway) -> None:
    gateways._connect_timeout = 0.1
    gateway.register("a")
    gateway.behave(times=2, upgrade_hang=True)
    assert speak(gateways, gateway) is Delivery.TAKEN


@pytest.mark.parametrize("manners", [{"upgrade_status": 404}, {"upgrade_status": 403}, {"upgrade_redirect_to": "/"}])
def test_a_gateway_that_refuses_for_good_has_no_client(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, manners: dict[str, Any]
) -> None:
    monkeypatch.setattr(reply, "NOT_YET_TIME", 0.3)
    gateway.behave(**manners)
    with pytest.raises(ClientGone, match="refuses the stream with status"):
        speak(gateways, gateway)
    assert len(gateway.upgrades) > 1
    assert not gateway.strange


# --- a client that leaves ---


@pytest.mark.parametrize("manners", [{"cut_after": 1}, {"close_after": 1}], ids=["cut", "closed"])
def test_a_connection_that_the_gateway_ends_means_that_the_client_is_gone(
    gateways: Gateways, gateway: FakeGateway, manners: dict[str, Any]
) -> None:
    gateway.register("a")
    gateway.behave("a", **manners)
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    with pytest.raises(ClientGone):
        stream.reply.pause(LONG)
    assert len(gateway.sockets) == 1, "it is not tried again: the client has seen a part"
    assert stream.reply.fileno() == -1


def test_a_client_that_leaves_while_frames_are_sent_is_gone(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave("a", cut_after=1)
    stream = Stream(gateways, gateway)

    def send_on() -> None:
        stream.reply.send([chunk(0, 10_000)])

    with pytest.raises(ClientGone):
        until(send_on, LONG, "end of the connection")


def test_a_gateway_that_answers_no_ping_has_no_client(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "PING_EVERY", 0.05)
    monkeypatch.setattr(reply, "GONE_AFTER", 0.3)
    gateway.register("a")
    gateway.behave("a", no_pong=True)
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    with pytest.raises(ClientGone, match="no ping was answered"):
        stream.reply.pause(LONG)


def test_a_gateway_that_answers_pings_keeps_its_stream(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "PING_EVERY", 0.05)
    monkeypatch.setattr(reply, "GONE_AFTER", 0.2)
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    stream.reply.pause(0.5)
    assert gateway.sockets[0].pings >= 3
    assert stream.reply.end() is Delivery.TAKEN


def test_a_gateway_whose_reader_is_blocked_has_no_client(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_TIME", 0.2)
    monkeypatch.setattr(websocket, "CLOSE_TIME", 0.1)
    gateway.register("a")
    gateway.behave("a", stop_reading_after=1)
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    gateway.wait_until(lambda: gateway.sockets[0].stopped, LONG, "blocked reader")
    with pytest.raises(ClientGone):
        stream.reply.send([chunk(1, 32 << 20)])


def test_an_end_that_cannot_be_sent_is_a_client_that_is_gone(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    gateway.wait_for_frames("a", 1)
    gateway.cut_connections()
    until(lambda: not gateway.open_connections, LONG, "end of the connection")
    with pytest.raises(ClientGone):
        stream.reply.end(chunk(1, 1 << 20))
    assert AnswerState.ENDED not in stream.shown


def test_while_upstream_is_silent_a_gateway_that_was_away_is_tried_again(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    gateway.register("a")
    gateway.down()
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    threading.Timer(0.1, gateway.up).start()
    thread = threading.Thread(target=stream.reply.pause, args=(1.0,))
    thread.start()
    gateway.wait_until(lambda: gateway.sockets, LONG, "WebSocket")
    thread.join()
    assert stream.reply.end() is Delivery.TAKEN


def test_a_slow_reader_gets_it_all(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave("a", slow_read_ms=0.1)
    stream = Stream(gateways, gateway)
    for number in range(10):
        stream.reply.send([chunk(number, 2000)])
    assert stream.reply.end() is Delivery.TAKEN
    assert len(gateway.answer("a").wait(LONG).chunks) == 10
    assert json.loads(gateway.answer("a").frames[-1].text) == {"request_id": "a", "end": True}


def test_many_streams_at_once_keep_to_themselves(gateways: Gateways, gateway: FakeGateway) -> None:
    ids = [f"id-{number}" for number in range(60)]
    gateway.register(*ids)

    def all_of(own: list[str]) -> None:
        for id in own:
            stream = Stream(gateways, gateway, id)
            for number in range(5):
                stream.reply.send([b'{"choices":[{"delta":{"content":"%b/%d "}}]}' % (id.encode(), number)])
            stream.reply.end()

    threads = [threading.Thread(target=all_of, args=(ids[start::12],)) for start in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in gateway.wait_all(ids):
        assert answer.text == "".join(f"{answer.id}/{number} " for number in range(5))
    assert gateway.faults() == []
    assert len(gateway.sockets) < len(ids), "no connection was used again"
