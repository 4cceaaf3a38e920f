"""The link that can be cut, which the tests of partitions stand on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from devstack.ports import free_port
from tests.support.link import Link


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    """A link to a server that sends back what it gets, and a connection through it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = free_port()
        link = Link(port, server.getsockname()[1])

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                while piece := connection.recv(100):
                    connection.sendall(piece)

        thread = threading.Thread(target=echo)
        thread.start()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"first")
            assert client.recv(100) == b"first"
            yield link, client
        link.close()
        thread.join()


def test_after_a_reset_a_connection_is_closed_and_a_new_one_is_closed_at_once(ends: tuple[Link, socket.socket]) -> None:
    link, client = ends
    link.reset()
    assert client.recv(100) == b""
    with socket.create_connection(client.getpeername()[:2]) as other:
        assert other.recv(100) == b""


def test_what_is_sent_while_it_is_stalled_arrives_when_it_is_mended(ends: tuple[Link, socket.socket]) -> None:
    link, client = ends
    link.stall()
    client.sendall(b"held back")
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(100)
    link.mend()
    client.settimeout(None)
    assert client.recv(100) == b"held back"
