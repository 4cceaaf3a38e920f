"""A gateway that resets a kept connection behind a POST, and takes no new connection for a while, gets the answer."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.faults.testbed import Testbed
from tests.support.wait import until

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


# Fields of Linux's `struct tcp_info` of a listening socket: connections that wait to be accepted, and the backlog.
QUEUE_AT = 24


class StallingGateway:
    """Takes one connection after the other. While it stalls, a new connection is not even established: the queue of the
    listening socket is full, as on a machine that is overwhelmed.
    """

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/res"
        self.posts: list[str] = []  # request ids, also of those that were reset
        self.taken: list[str] = []
        self._serves = threading.Event()
        self._fillers: list[socket.socket] = []
        self.go_on()

    def stall(self) -> None:
        """From now on: reset behind the next POST, and let no new connection come up."""
        self._stop_accepting()
        while not self._queue_is_full():
            self._fill()

    def go_on(self) -> None:
        """Serve again."""
        for filler in self._fillers:
            filler.close()
        self._serves.set()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        self._stop_accepting()
        for filler in self._fillers:
            filler.close()
        self.listener.close()

    def _stop_accepting(self) -> None:
        """End the thread that accepts: one that still waits in `accept` would take a connection out of a full queue."""
        self._serves.clear()
        self._fill()  # ends its wait
        self._acceptor.join()

    def _fill(self) -> None:
        """Begin a connection that sends nothing."""
        filler = socket.socket()
        self._fillers.append(filler)
        filler.setblocking(False)
        filler.connect_ex(self.listener.getsockname())

    def _queue_is_full(self) -> bool:
        info = self.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, QUEUE_AT + 8)
        waiting, backlog = struct.unpack_from("II", info, QUEUE_AT)
        return bool(waiting > backlog)

    def _accept(self) -> None:
        while self._serves.is_set():
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        with connection, suppress(OSError):
            while piece := connection.recv(65536):
                received += piece
                head, end, body = received.partition(b"\r\n\r\n")
                length = LENGTH.search(head)
                if not end or length is None or len(body) < int(length[1]):
                    continue
                received = b""
                id = json.loads(body)["request_id"]
                self.posts.append(id)
                if not self._serves.is_set():
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                self.taken.append(id)
                connection.sendall(OK)


@pytest.fixture
def gateway() -> Iterator[StallingGateway]:
    one = StallingGateway()
    yield one
    one.close()


def test_an_answer_whose_post_was_reset_is_offered_again_when_the_gateway_can_be_reached_again(
    build: Callable[..., Testbed], gateway: StallingGateway
) -> None:
    testbed = build(CONNECT_TIMEOUT=1, WORKER_PROCESSES=1)
    testbed.start()
    endpoint = {"endpoint": gateway.url}
    first = testbed.platform.ask("hello", task=endpoint)
    until(lambda: gateway.taken == [first], 60, "first answer")
    assert testbed.last_record(first)["outcome"]["status"] == "answered"
    gateway.stall()
    second = testbed.platform.ask("hello", task=endpoint)
    until(lambda: gateway.posts == [first, second], 60, "POST on the kept connection")
    until(lambda: any(line.get("event") == "gateway_away" for line in testbed.node.logs()), 60, "try to connect anew")
    gateway.go_on()
    until(lambda: gateway.taken == [first, second], 60, "second answer")
    assert gateway.posts == [first, second, second]
    assert testbed.last_record(second)["outcome"]["status"] == "answered"
    assert testbed.asked(second) == 1
