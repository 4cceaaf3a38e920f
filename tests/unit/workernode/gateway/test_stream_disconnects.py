"""What a stream does when its connection breaks or its client leaves: it gives up, or ends over a new connection."""

from __future__ import annotations

import select
import threading
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.support.wait import until
from tests.unit.workernode.gateway.replies import LONG, Stream, chunk
from workernode.errors import ClientGone, GatewayConnectionLost
from workernode.gateway import AnswerResult, Gateways, timing
from workernode.net import websocket
from workernode.net.websocket import WebSocket
from workernode.protocol import AnswerState

BROKEN = b'{"error":{"message":"broken"}}'
broken = pytest.mark.parametrize("behaviour", [{"cut_after": 1}, {"close_after": 1}], ids=["cut", "closed"])


def broken_stream(gateways: Gateways, gateway: FakeGateway, behaviour: dict[str, Any]) -> Stream:
    """A stream whose connection has broken after its first chunk."""
    gateway.register("a")
    gateway.behave("a", **behaviour)
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    with pytest.raises(GatewayConnectionLost):
        stream.reply.pause(LONG)
    assert stream.reply.fileno() == -1
    return stream


@broken
def test_a_stream_whose_connection_broke_gets_its_error_and_one_end_over_a_new_one(
    gateways: Gateways, gateway: FakeGateway, behaviour: dict[str, Any]
) -> None:
    """The gateway knows a stream by its id: its client may wait all the same."""
    stream = broken_stream(gateways, gateway, behaviour)
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.TAKEN
    assert stream.shown == [AnswerState.STARTED, AnswerState.ENDING, AnswerState.ENDED]
    answer = gateway.answer("a").wait()
    assert [one.end for one in answer.frames] == [False, False, True]
    assert (answer.error, answer.ends, answer.faults) == ({"message": "broken"}, 1, [])
    assert [one.ids for one in gateway.sockets] == [["a"], ["a"]]


@broken
def test_a_gateway_that_is_back_in_a_moment_gets_the_end_of_a_broken_stream(
    gateways: Gateways, gateway: FakeGateway, behaviour: dict[str, Any]
) -> None:
    stream = broken_stream(gateways, gateway, behaviour)
    gateway.down()
    threading.Timer(0.5, gateway.up).start()
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.TAKEN
    assert gateway.answer("a").wait().ends == 1


@pytest.mark.parametrize("how", ["down", "refused", "hangs"])
def test_a_gateway_that_stays_away_is_not_tried_for_long_after_a_broken_stream(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(timing, "RECONNECT_TIME", 0.4)
    stream = broken_stream(gateways, gateway, {"cut_after": 1})
    if how == "down":
        gateway.down()
    else:
        gateway.behave(**({"upgrade_status": 404} if how == "refused" else {"upgrade_hang": True}))
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.UNREACHABLE
    assert AnswerState.ENDING not in stream.shown


def test_a_new_connection_that_the_gateway_does_not_read_is_given_up(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = broken_stream(gateways, gateway, {"cut_after": 1})

    def time_out(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(WebSocket, "send", time_out)
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.UNREACHABLE
    assert stream.shown[-1] is AnswerState.STARTED


def test_a_gateway_that_refuses_new_connections_for_a_moment_gets_the_end(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    stream = broken_stream(gateways, gateway, {"cut_after": 1})
    gateway.behave(times=2, upgrade_status=503)
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.TAKEN
    assert gateway.answer("a").wait().ends == 1


def test_a_connection_that_breaks_while_frames_are_sent_is_lost(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave("a", cut_after=1)
    stream = Stream(gateways, gateway)

    def send_on() -> None:
        stream.reply.send([chunk(0, 10_000)])

    with pytest.raises(GatewayConnectionLost):
        until(send_on, LONG, "end of the connection")


@pytest.mark.parametrize("how", ["cut_after", "close_after"])
def test_no_end_is_written_to_a_connection_that_the_gateway_has_closed(
    gateways: Gateways, gateway: FakeGateway, how: str
) -> None:
    """What is written to a closed connection is lost without an error: the client would wait for ever."""
    gateway.register("a")
    gateway.behave("a", **{how: 1})
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    poll = select.poll()
    poll.register(stream.reply.fileno(), select.POLLIN)
    assert poll.poll(LONG * 1000), "the connection was not closed"
    with pytest.raises(GatewayConnectionLost):
        stream.reply.end()
    assert AnswerState.ENDED not in stream.shown
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.TAKEN
    answer = gateway.answer("a").wait()
    assert (answer.error, answer.ends) == ({"message": "broken"}, 1)


def test_an_end_that_could_not_be_written_is_sent_over_a_new_connection(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    gateway.wait_for_frames("a", 1)
    whole = WebSocket.send

    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(WebSocket, "send", whole)
        raise ConnectionResetError

    monkeypatch.setattr(WebSocket, "send", fail)
    with pytest.raises(GatewayConnectionLost):
        stream.reply.end()
    assert stream.shown == [AnswerState.STARTED, AnswerState.ENDING, AnswerState.STARTED]
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.TAKEN
    assert gateway.answer("a").wait().ends == 1


def test_a_gateway_that_answers_no_ping_has_no_client(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PING_EVERY", 0.05)
    monkeypatch.setattr(timing, "GONE_AFTER", 0.3)
    gateway.register("a")
    gateway.behave("a", no_pong=True)
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    with pytest.raises(ClientGone, match="no ping was answered"):
        stream.reply.pause(LONG)


def test_a_gateway_that_answers_pings_keeps_its_stream(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PING_EVERY", 0.05)
    monkeypatch.setattr(timing, "GONE_AFTER", 0.2)
    gateway.register("a")
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    stream.reply.pause(0.5)
    assert gateway.sockets[0].pings >= 3
    assert stream.reply.end() is AnswerResult.TAKEN


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


def test_frames_that_a_blocked_gateway_has_not_taken_can_be_dropped(gateways: Gateways, gateway: FakeGateway) -> None:
    """They must arrive no more once another node may answer. Its client may wait all the same, and gets an error."""
    gateway.register("a")
    gateway.behave("a", stop_reading_after=1)
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    gateway.wait_until(lambda: gateway.sockets[0].stopped, LONG, "blocked reader")
    is_lost = threading.Event()

    def drop() -> None:
        while not is_lost.wait(0.01):
            stream.reply.drop_undelivered()

    dropping = threading.Thread(target=drop)
    dropping.start()
    with pytest.raises(GatewayConnectionLost):
        stream.reply.send([chunk(1, 32 << 20)])
    is_lost.set()
    dropping.join()
    assert stream.reply.end_over_new_connection(BROKEN) is AnswerResult.TAKEN


def test_a_stream_without_a_connection_has_nothing_to_drop(gateways: Gateways, gateway: FakeGateway) -> None:
    Stream(gateways, gateway).reply.drop_undelivered()
