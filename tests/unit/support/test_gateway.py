"""The double of the gateway (tests/support/gateway)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect

from tests.support.gateway import FakeGateway, raw_data
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.support.http_client import TIMEOUT, client


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


def test_threads_of_a_closed_fake_are_gone() -> None:
    before = threading.active_count()
    for fake in (FakeUpstream(), FakeGateway()):
        fake.close()
        fake.close()
    assert threading.active_count() == before
