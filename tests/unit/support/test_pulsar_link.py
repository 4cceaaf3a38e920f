"""The link that reads Pulsar's frames, which the tests of lost connections stand on."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from devstack.ports import free_port
from tests.support.pulsar_link import ACK, RECEIPT, SEND, PulsarLink


def frame(kind: int, text: bytes = b"") -> bytes:
    command = bytes([8, kind]) + text
    return struct.pack(">II", len(command) + 4, len(command)) + command


@pytest.fixture
def ends() -> Iterator[tuple[PulsarLink, socket.socket, socket.socket]]:
    """A link, its client's end and its broker's."""
    with socket.create_server(("127.0.0.1", port := free_port())) as server:
        link = PulsarLink(port)
        client = socket.create_connection(("127.0.0.1", int(link.url.rpartition(":")[2])))
        broker, _ = server.accept()
        client.sendall(frame(ACK))
        assert broker.recv(100) == frame(ACK)
        yield link, client, broker
        link.close()
        client.close()
        broker.close()


def test_frames_of_one_kind_are_lost_and_others_are_not(ends: tuple[PulsarLink, socket.socket, socket.socket]) -> None:
    link, client, broker = ends
    link.lose(RECEIPT)
    broker.sendall(frame(RECEIPT) + frame(ACK))
    assert client.recv(100) == frame(ACK)
    link.wait_lost(1)


def test_the_address_of_the_broker_becomes_that_of_the_link(
    ends: tuple[PulsarLink, socket.socket, socket.socket],
) -> None:
    link, client, broker = ends
    broker.sendall(frame(ACK, f"pulsar://127.0.0.1:{broker.getsockname()[1]}".encode()))
    assert client.recv(100) == frame(ACK, link.url.encode())


def test_what_is_held_back_reaches_the_broker_after_the_client_was_cut_off(
    ends: tuple[PulsarLink, socket.socket, socket.socket],
) -> None:
    link, client, broker = ends
    link.hold(SEND)
    client.sendall(frame(SEND))
    link.wait_held(1)
    link.cut(half=True)
    assert client.recv(100) == b""
    link.release()
    assert broker.recv(100) == frame(SEND)
