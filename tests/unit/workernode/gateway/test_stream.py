"""A stream reaches a gateway that misbehaves with exactly one end, and every way of giving up ends."""

from __future__ import annotations

import json
import select
import threading
import time
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.support.wait import until
from tests.unit.workernode.gateway.replies import LONG, Stream, chunk, soon, speak
from workernode.errors import ClientGone, GatewayConnectionLost
from workernode.gateway import AnswerResult, Gateways, timing
from workernode.gateway import stream as stream_module
from workernode.net import websocket
from workernode.net.websocket import WebSocket
from workernode.protocol import AnswerState
from workernode.task import read_endpoint

FRAME_AFTER = timing.FRAME_AFTER


def test_a_stream_is_its_chunks_byte_for_byte_and_one_end(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("ä")
    stream = Stream(gateways, gateway, "ä")
    stream.reply.send([chunk(0)])
    assert stream.shown == [AnswerState.STARTED]
    stream.reply.send([chunk(1), chunk(2)])
    assert stream.reply.end() is AnswerResult.TAKEN
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
    assert stream.reply.end(b'{"error":{"message":"no"}}') is AnswerResult.TAKEN
    answer = gateway.answer("a").wait()
    assert [one.end for one in answer.frames] == [False, False, True]
    assert answer.error == {"message": "no"}


def noted(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """Return a list that gets the frames of each write."""
    sent: list[list[bytes]] = []
    send = WebSocket.send

    def note(socket: WebSocket, frames: list[bytes], **more: Any) -> None:
        sent.append(frames)
        send(socket, frames, **more)

    monkeypatch.setattr(WebSocket, "send", note)
    return sent


@pytest.mark.parametrize("chunks", [0, 1], ids=["an error alone", "an error after a chunk"])
def test_an_error_leaves_together_with_the_end(
    chunks: int, gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the end its claim is waited for. A worker that is killed in between has sent no error yet."""
    sent = noted(monkeypatch)
    gateway.register("a")
    stream = Stream(gateways, gateway)
    for number in range(chunks):
        stream.reply.send([chunk(number)])
    stream.reply.end(b'{"error":{"message":"no"}}')
    assert [len(frames) for frames in sent] == [1] * chunks + [2]
    assert stream.shown == [AnswerState.STARTED, AnswerState.ENDING, AnswerState.ENDED]
    assert gateway.answer("a").wait().error == {"message": "no"}


def test_an_error_that_an_earlier_reply_has_left_leaves_together_with_the_end(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = noted(monkeypatch)
    gateway.register("a")
    earlier, stream = Stream(gateways, gateway), Stream(gateways, gateway)
    earlier.reply._hold([earlier.reply._chunk_head + each + b"}" for each in (chunk(0), b'{"error":{"message":"no"}}')])
    stream.reply.hold(earlier.reply.held)
    stream.reply.end()
    assert [len(frames) for frames in sent] == [1, 2]
    assert gateway.answer("a").wait().error == {"message": "no"}


def test_a_stream_can_be_only_an_error_and_the_end(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    stream = Stream(gateways, gateway)
    assert stream.reply.end(b'{"error":{"message":"no"}}') is AnswerResult.TAKEN
    assert stream.shown == [AnswerState.STARTED, AnswerState.ENDING, AnswerState.ENDED]
    assert gateway.answer("a").wait().error == {"message": "no"}


@pytest.mark.parametrize("first", ["chunk", "end"])
def test_no_frame_is_sent_before_the_gateway_can_know_the_id(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(timing, "FRAME_AFTER", FRAME_AFTER)
    assert FRAME_AFTER >= 0.1, "spec 1.2"
    gateway.register("a")
    stream = Stream(gateways, gateway)
    if first == "chunk":
        stream.reply.send([chunk(0)])
        assert time.monotonic() - stream.began >= FRAME_AFTER
    stream.reply.end(None if first == "chunk" else b"{}")
    assert time.monotonic() - stream.began >= FRAME_AFTER


def test_the_answer_state_is_set_before_the_bytes_are_sent(gateways: Gateways, gateway: FakeGateway) -> None:
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


# --- a gateway that is away ---


def test_chunks_are_held_until_the_gateway_is_back(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.down()
    stream = Stream(gateways, gateway)
    stream.reply.connect()
    for number in range(3):
        stream.reply.send([chunk(number)])
    assert (stream.shown, stream.reply.has_begun) == ([], False)
    assert stream.reply.end() is AnswerResult.UNREACHABLE
    assert len(stream.reply.held) == 3
    gateway.up()
    until(lambda: stream.reply.end() is AnswerResult.TAKEN, LONG, "end")
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
    assert speak(gateways, gateway, seconds=0.5) is AnswerResult.UNREACHABLE


def test_the_size_of_held_frames_is_limited(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_HELD", 10_000)
    gateway.down()
    stream = Stream(gateways, gateway)
    stream.reply.send([chunk(0)])
    with pytest.raises(ClientGone, match="too large"):
        stream.reply.send([chunk(1, 10_000)])


def test_a_long_stream_is_not_counted_as_held(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_HELD", 10_000)
    gateway.register("a")
    stream = Stream(gateways, gateway)
    for number in range(10):
        stream.reply.send([chunk(number, 5_000)])
    assert stream.reply.end() is AnswerResult.TAKEN


@pytest.mark.parametrize("behaviour", [{"upgrade_status": 503}, {"upgrade_status": 429}, {"upgrade_status": 404}])
def test_a_gateway_that_refuses_for_a_moment_gets_the_stream(
    gateways: Gateways, gateway: FakeGateway, behaviour: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "OFFER_TIME", LONG)
    gateway.register("a")
    gateway.behave(times=2, **behaviour)
    assert speak(gateways, gateway) is AnswerResult.TAKEN
    assert gateway.answer("a").wait().text == "01"


def test_a_gateway_that_hangs_at_the_upgrade_gets_the_stream_later(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "OFFER_TIME", LONG)
    gateways.connections._connect_timeout = 0.1
    gateway.register("a")
    gateway.behave(times=2, upgrade_hang=True)
    assert speak(gateways, gateway) is AnswerResult.TAKEN


@pytest.mark.parametrize("behaviour", [{"upgrade_status": 404}, {"upgrade_status": 403}, {"upgrade_redirect_to": "/"}])
def test_a_gateway_that_refuses_for_good_has_no_client(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, Any]
) -> None:
    monkeypatch.setattr(timing, "REGISTERING_TIME", 0.3)
    gateway.behave(**behaviour)
    with pytest.raises(ClientGone, match="refuses the stream with status"):
        speak(gateways, gateway)
    assert len(gateway.upgrades) > 1
    assert not gateway.strange


# --- a connection that breaks, a client that leaves ---


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
    assert stream.reply.end() is AnswerResult.TAKEN


def test_a_slow_reader_gets_it_all(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave("a", slow_read_ms=0.1)
    stream = Stream(gateways, gateway)
    for number in range(10):
        stream.reply.send([chunk(number, 2000)])
    assert stream.reply.end() is AnswerResult.TAKEN
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
