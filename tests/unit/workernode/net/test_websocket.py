"""One WebSocket to the gateway: what a send, a ping, a close and a refusal come to, with a time limit on each."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode.net import websocket
from workernode.net.origin import Origin
from workernode.net.websocket import HandshakeRefused, WebSocket, text_frames

LONG = 10.0  # seconds: what must end sooner by something else


def connect(gateway: FakeGateway, timeout: float = LONG) -> WebSocket:
    return WebSocket.connect(Origin(False, "127.0.0.1", gateway.port), "/res/ws", None, timeout)


@pytest.fixture
def link(gateway: FakeGateway) -> Iterator[WebSocket]:
    made = connect(gateway)
    yield made
    made.close()


def frame(id: str, size: int = 0) -> bytes:
    return b'{"request_id":"%b","end":false,"data":{"x":"%b"}}' % (id.encode(), b"x" * size)


def test_texts_arrive_as_they_are_and_in_order(gateway: FakeGateway, link: WebSocket) -> None:
    gateway.register("a")
    texts = ['{"request_id":"a","end":false,"data":{"content":"hällo ' + str(n) + '"}}' for n in range(50)]
    link.send([text.encode() for text in texts])
    assert [one.text for one in gateway.wait_for_frames("a", 50)] == texts
    assert not gateway.rubbish


@given(st.lists(st.binary(max_size=300) | st.sampled_from([125, 126, 65535, 65536, 70000]).map(lambda n: b"x" * n)))
def test_frames_are_what_the_library_reads(texts: list[bytes]) -> None:
    client, server = ClientProtocol(parse_uri("ws://127.0.0.1/")), ServerProtocol(max_size=None)
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    server.send_response(server.accept(server.events_received()[0]))  # type: ignore[arg-type]
    for sent in text_frames(texts):
        server.receive_data(sent)
    read = server.events_received()
    assert [(one.opcode, one.fin, bytes(one.data)) for one in read] == [(Opcode.TEXT, True, text) for text in texts]


def test_each_frame_has_a_mask_of_its_own() -> None:
    masks = {sent[2:6] for sent in text_frames([b"same"] * 50)}
    assert len(masks) == 50


def test_nothing_is_sent_after_a_close(gateway: FakeGateway, link: WebSocket) -> None:
    link.close()
    with pytest.raises(OSError, match="closed"):
        link.send([frame("a")])


def test_a_long_text_arrives_at_a_slow_reader(gateway: FakeGateway, link: WebSocket) -> None:
    gateway.register("a")
    gateway.behave("a", slow_read_ms=0.1)
    link.send([frame("a")])
    gateway.wait_for_frames("a", 1)
    link.send([frame("a", 30_000)])
    assert len(gateway.wait_for_frames("a", 2, 30)[1].text) > 30_000


def test_a_ping_is_answered_once_all_before_it_was_read(gateway: FakeGateway, link: WebSocket) -> None:
    assert link.answered
    link.send([frame("a")], ping=True)
    assert not link.answered
    until(lambda: link.read() and link.answered, LONG, "pong")
    assert len(gateway.answer("a").frames) == 1


def test_only_the_last_pings_answer_counts(gateway: FakeGateway, link: WebSocket) -> None:
    link.ping()
    gateway.wait_until(lambda: gateway.sockets[0].pings == 1, LONG, "ping")
    gateway.behave("a", no_pong=True)
    link.send([frame("a")], ping=True)
    gateway.wait_until(lambda: gateway.sockets[0].pings == 2, LONG, "second ping")
    until(link.read, LONG, "the first pong")
    assert not link.answered


def test_reading_does_not_wait(link: WebSocket) -> None:
    assert link.read()


def test_the_gateways_close_is_noticed_and_answered(gateway: FakeGateway, link: WebSocket) -> None:
    gateway.behave("a", close_after=1)
    gateway.register("a")
    link.send([frame("a")])
    until(lambda: not link.read(), LONG, "close")
    link.close()
    until(lambda: not gateway.open_connections, LONG, "end of the connection")


def test_a_connection_that_is_cut_is_noticed(gateway: FakeGateway, link: WebSocket) -> None:
    gateway.cut_connections()
    until(lambda: not link.read(), LONG, "cut")


def test_close_sends_a_close_frame(gateway: FakeGateway, link: WebSocket) -> None:
    link.close()
    gateway.wait_until(lambda: gateway.sockets[0].close_code == 1000, LONG, "goodbye")
    link.close()  # twice is legal


def test_a_send_to_a_reader_that_is_blocked_ends(
    gateway: FakeGateway, link: WebSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_TIME", 0.2)
    gateway.behave("a", stop_reading_after=0)
    link.send([frame("a")])
    gateway.wait_until(lambda: gateway.sockets[0].stopped, LONG, "blocked reader")
    with pytest.raises(TimeoutError):
        link.send([frame("a", 32 << 20)])


def test_a_close_of_a_connection_whose_reader_is_blocked_ends(
    gateway: FakeGateway, link: WebSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_TIME", 0.1)
    monkeypatch.setattr(websocket, "CLOSE_TIME", 0.1)
    gateway.behave("a", stop_reading_after=0)
    link.send([frame("a")])
    gateway.wait_until(lambda: gateway.sockets[0].stopped, LONG, "blocked reader")
    with contextlib.suppress(TimeoutError):
        link.send([frame("a", 32 << 20)])
    link.close()
    gateway.cut_connections()


# --- the handshake ---


@pytest.mark.parametrize("status", [400, 404, 503])
def test_the_status_of_a_refused_handshake_is_known(gateway: FakeGateway, status: int) -> None:
    gateway.behave(upgrade_status=status)
    with pytest.raises(HandshakeRefused) as caught:
        connect(gateway)
    assert caught.value.status == status


def test_a_redirect_is_not_followed(gateway: FakeGateway) -> None:
    gateway.behave(upgrade_redirect_to=gateway.ws_url, times=1)
    with pytest.raises(HandshakeRefused) as caught:
        connect(gateway)
    assert caught.value.status == 307
    assert len(gateway.upgrades) == 1


def test_a_silent_gateway_is_given_up_at_the_deadline(gateway: FakeGateway) -> None:
    gateway.behave(upgrade_hang=True)
    with pytest.raises(TimeoutError):
        connect(gateway, timeout=0.1)


def test_a_gateway_that_is_down_is_an_error(gateway: FakeGateway) -> None:
    gateway.down()
    with pytest.raises(ConnectionRefusedError):
        connect(gateway)


def answered_by(talk: Callable[[socket.socket, bytes], None]) -> int:
    """A server that calls this with the first connection and its request; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection, contextlib.suppress(ConnectionError):
            talk(connection, connection.recv(10_000))

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def accept(connection: socket.socket, request: bytes) -> ServerProtocol:
    protocol = ServerProtocol()
    protocol.receive_data(request)
    (asked,) = protocol.events_received()
    protocol.send_response(protocol.accept(asked))  # type: ignore[arg-type]
    return protocol


def accept_and_close(connection: socket.socket, request: bytes) -> None:
    protocol = accept(connection, request)
    protocol.send_close(1001)
    connection.sendall(b"".join(protocol.data_to_send()))
    connection.recv(1000)


@pytest.mark.parametrize(
    ("talk", "status"),
    [
        pytest.param(
            lambda c, r: c.sendall(b"HTTP/1.1 404 No\r\nConnection: close\r\n\r\n<html>"), 404, id="ended_by_close"
        ),
        pytest.param(lambda c, r: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), 200, id="no_websocket"),
        pytest.param(lambda c, r: (c.sendall(b"SSH-2.0-OpenSSH_9\r\n"), c.recv(1)), 0, id="another_protocol"),
        pytest.param(lambda c, r: (c.sendall(b"\x00" * 20_000), c.recv(1)), 0, id="binary"),
        pytest.param(lambda c, r: None, 0, id="closed"),
    ],
)
def test_a_peer_that_is_no_websocket_server_is_recognised_at_once(
    talk: Callable[[socket.socket, bytes], None], status: int
) -> None:
    """At once: not when the time for a handshake is over."""
    port = answered_by(talk)
    with pytest.raises(HandshakeRefused) as caught:
        WebSocket.connect(Origin(False, "127.0.0.1", port), "/", None, 60)
    assert caught.value.status == status


def test_a_gateway_that_closes_as_soon_as_it_is_open_is_an_error() -> None:
    port = answered_by(accept_and_close)
    with pytest.raises(ConnectionResetError):
        WebSocket.connect(Origin(False, "127.0.0.1", port), "/", None, LONG)


def test_the_gateways_pings_are_answered() -> None:
    received: list[bytes] = []

    def ping(connection: socket.socket, request: bytes) -> None:
        protocol = accept(connection, request)
        protocol.send_ping(b"are you there")
        connection.sendall(b"".join(protocol.data_to_send()))
        protocol.receive_data(connection.recv(1000))
        received.extend(event.data for event in protocol.events_received() if getattr(event, "opcode", 0) is
        Opcode.PONG)

    link = WebSocket.connect(Origin(False, "127.0.0.1", answered_by(ping)), "/", None, LONG)
    until(lambda: received, LONG, "pong")
    assert received == [b"are you there"]
    link.close()


def test_the_upgrade_request_has_the_right_headers(gateway: FakeGateway) -> None:
    WebSocket.connect(Origin(False, "127.0.0.1", gateway.port), "/res/ws?a=1", None, LONG).close()
    (request,) = gateway.upgrades
    assert request.path == "/res/ws?a=1"
    assert request.headers["host"] == gateway.address


def test_tls_is_verified(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    fake, _ = tls_upstream
    with pytest.raises(ssl.SSLCertVerificationError):
        WebSocket.connect(Origin(True, "127.0.0.1", fake.port), "/", ssl.create_default_context(), LONG)


def test_time_for_a_handshake_is_time_for_all_of_it() -> None:
    def drip(connection: socket.socket, request: bytes) -> None:
        for byte in b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)

    with pytest.raises(TimeoutError):
        WebSocket.connect(Origin(False, "127.0.0.1", answered_by(drip)), "/", None, 0.2)
