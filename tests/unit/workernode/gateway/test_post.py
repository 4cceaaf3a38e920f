"""A plain answer reaches a gateway that misbehaves exactly once, and every way of giving up ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.workernode.gateway.replies import DATA, LONG, post, soon
from workernode.gateway import AnswerResult, Gateways, timing
from workernode.net import dial
from workernode.net.connection import Wire
from workernode.task import Endpoint, read_endpoint


def _fail_next_connection(monkeypatch: pytest.MonkeyPatch, error: OSError) -> list[OSError]:
    """Let the next connection fail; return a list that has its error then."""
    raised: list[OSError] = []
    connect = dial.connect

    def fail_once(host: str, port: int, timeout: float) -> socket.socket:
        if raised:
            return connect(host, port, timeout)
        raised.append(error)
        raise error

    monkeypatch.setattr(dial, "connect", fail_once)
    return raised


def _keep_connection_closed_by_gateway(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the gateway close a kept connection just after the node has found it open."""
    gateway.register("first")
    assert post(gateways, gateway, "first") is AnswerResult.TAKEN
    gateway.post(lambda: [each.finish() for each in gateway.open_connections])
    until(lambda: not gateway.open_connections, LONG, "close")
    monkeypatch.setattr(Wire, "stale", lambda wire: False)


def test_an_answer_is_posted_byte_for_byte(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("ä")
    assert post(gateways, gateway, "ä") is AnswerResult.TAKEN
    (one,) = gateway.answer("ä").posts
    assert one.body == b'{"request_id":"\\u00e4","data":' + DATA + b"}"
    assert one.headers["content-type"] == "application/json"
    assert one.headers["host"] == gateway.address


def test_answers_share_a_connection(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a", "b")
    assert (post(gateways, gateway, "a"), post(gateways, gateway, "b")) == (AnswerResult.TAKEN, AnswerResult.TAKEN)
    assert {one.connection for one in gateway.posts} == {1}


def test_an_id_that_is_registered_a_moment_later_gets_its_answer(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register_after(0.5, "a")
    assert post(gateways, gateway) is AnswerResult.TAKEN
    assert gateway.answer("a").posts[0].status == 404


def test_an_id_that_is_never_registered_has_no_client(gateways: Gateways, gateway: FakeGateway) -> None:
    start = time.monotonic()
    assert post(gateways, gateway) is AnswerResult.CLIENT_GONE
    assert time.monotonic() - start >= 1.0, "a second is what registering may take"
    assert {one.status for one in gateway.posts} == {404}


def test_a_gateway_that_comes_back_gets_the_answer(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.down()
    threading.Timer(0.2, gateway.up).start()
    assert post(gateways, gateway) is AnswerResult.TAKEN


def test_a_gateway_that_stays_away_is_unreachable_when_the_time_is_over(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    gateway.down()
    assert post(gateways, gateway, seconds=0.5) is AnswerResult.UNREACHABLE


def test_an_answer_that_is_late_is_offered_all_the_same(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    assert post(gateways, gateway, seconds=-100) is AnswerResult.TAKEN


@pytest.mark.parametrize("behaviour", [{"hang": True}, {"take_then_hang": True}], ids=["refused", "taken"])
def test_a_post_that_hangs_ends_and_is_not_repeated(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, Any]
) -> None:
    """The gateway's handler hangs where its client has just left; the answer may have been taken, or not."""
    monkeypatch.setattr(timing, "POST_TIME", 0.2)
    gateway.register("a")
    gateway.behave("a", **behaviour)
    assert post(gateways, gateway) is AnswerResult.UNCONFIRMED
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


@pytest.mark.parametrize("behaviour", PASSING.values(), ids=PASSING.keys())
def test_the_answer_is_sent_again_after_a_passing_fault_of_the_gateway(
    gateways: Gateways, gateway: FakeGateway, behaviour: dict[str, Any]
) -> None:
    gateway.register("a")
    gateway.behave("a", times=3, **behaviour)
    assert post(gateways, gateway) is AnswerResult.TAKEN
    assert gateway.faults() == []


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413])
def test_a_gateway_that_refuses_the_answer_is_not_asked_again(
    gateways: Gateways, gateway: FakeGateway, status: int
) -> None:
    gateway.behave("a", status=status)
    assert post(gateways, gateway) is AnswerResult.REFUSED
    assert len(gateway.posts) == 1


BODIES: dict[str, tuple[bytes, bool]] = {
    "cut": (b"Content-Length: 100\r\n\r\nok", False),
    "endless": (b"\r\n", True),
    "of another encoding": (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", False),
}


@pytest.mark.parametrize(("rest", "is_endless"), BODIES.values(), ids=BODIES.keys())
def test_a_status_of_200_means_taken_whatever_body_follows(gateways: Gateways, rest: bytes, is_endless: bool) -> None:
    posts: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the client closes an endless body; the test's end shuts the listener
            while True:
                with listener.accept()[0] as connection:
                    posts.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\n" + rest)
                    while is_endless:
                        connection.sendall(b"x" * 65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        endpoint = read_endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/res")
        assert gateways.post(endpoint, "a", DATA, soon(), once=False) is AnswerResult.TAKEN
        gateways.connections.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(posts) == 1


def test_an_answer_does_not_follow_redirects(gateways: Gateways, gateway: FakeGateway) -> None:
    gateway.register("a")
    gateway.behave("a", redirect_to=gateway.post_url)
    assert post(gateways, gateway) is AnswerResult.REFUSED
    assert len(gateway.posts) == 1


def test_an_answer_taken_by_a_gateway_that_broke_off_is_not_offered_for_ever(
    gateways: Gateways, gateway: FakeGateway
) -> None:
    gateway.register("a")
    gateway.behave("a", take_then_reset=True)
    assert post(gateways, gateway) is AnswerResult.CLIENT_GONE
    assert sum(one.taken for one in gateway.posts) == 1


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "new"])
def test_a_connection_that_does_not_come_up_in_time_leaves_the_answer_to_be_offered_again(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """A kept connection was reset after the first try sent the POST. It is unknown whether the second try sent it."""
    if kept:
        gateway.register("first")
        post(gateways, gateway, "first")
        gateway.behave("a", reset=True, times=1)
    gateway.register("a")
    failed = _fail_next_connection(monkeypatch, TimeoutError("timed out"))
    assert post(gateways, gateway) is AnswerResult.TAKEN
    assert failed
    assert sum(one.taken for one in gateway.answer("a").posts) == 1


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionRefusedError()], ids=["timeout", "refused"])
def test_a_gateway_whose_new_connection_fails_is_unreachable_although_a_closed_one_was_written_to(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    _keep_connection_closed_by_gateway(gateways, gateway, monkeypatch)
    failed = _fail_next_connection(monkeypatch, error)
    assert post(gateways, gateway, once=True) is AnswerResult.UNREACHABLE
    assert failed


def test_a_post_that_hangs_on_the_connection_behind_a_closed_one_is_not_repeated(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "POST_TIME", 0.2)
    _keep_connection_closed_by_gateway(gateways, gateway, monkeypatch)
    gateway.behave("a", hang=True)
    assert post(gateways, gateway) is AnswerResult.UNCONFIRMED
    assert len(gateway.answer("a").posts) == 1


def test_a_tls_handshake_that_hangs_leaves_the_answer_to_be_offered_again(gateways: Gateways) -> None:
    """The server accepts the connection and never speaks TLS: nothing was sent."""
    gateways = Gateways(0.1, slots=8)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = read_endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}/res")
        assert gateways.post(endpoint, "a", DATA, soon(0)) is AnswerResult.UNREACHABLE


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1"])
def test_an_address_without_a_listener_ends_at_the_deadline(gateways: Gateways, host: str) -> None:
    assert gateways.post(Endpoint(False, host, 1, "/res"), "a", DATA, soon(0)) is AnswerResult.UNREACHABLE


def test_an_answer_is_not_sent_to_a_gateway_with_an_untrusted_certificate(
    gateways: Gateways, tls_upstream: tuple[FakeUpstream, Path]
) -> None:
    fake, _ = tls_upstream
    assert gateways.post(read_endpoint(f"{fake.url}/res"), "a", DATA, soon(0)) is AnswerResult.UNREACHABLE
    assert not fake.other_requests
