"""What a stream does when its gateway cannot be reached, or refuses it for a moment or for good."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.support.wait import until
from tests.unit.workernode.gateway.replies import LONG, Stream, chunk, speak
from workernode.errors import ClientGone
from workernode.gateway import AnswerResult, Gateways, timing
from workernode.gateway import stream as stream_module


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
