"""What a stream sends, and what it shows before, when its gateway takes it: its chunks byte for byte, and one end."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.unit.workernode.gateway.replies import LONG, Stream, chunk, soon
from workernode.gateway import AnswerResult, Gateways, timing
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
