"""What the development gateway makes of the frames of streams (spec 1.2), traps included. The test plays the node."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from devstack.gateway import Gateway
from tests.integration.gateway_clients import CHAT, PATIENCE, Client, Topic, chat, registered
from tests.support.wait import until


def node_socket(server: Gateway) -> ClientConnection:
    return connect(f"ws://{server.address}/res/ws", compression=None, max_size=None)


def frame(request_id: str, data: str | None = None, end: bool = False) -> str:
    tail = "" if data is None else f',"data":{data}'
    return f'{{"request_id":"{request_id}","end":{json.dumps(end)}{tail}}}'


class StreamClient:
    """A client of a stream, read event by event."""

    def __init__(self, server: Gateway) -> None:
        self._connection = http.client.HTTPConnection(server.address, timeout=PATIENCE)
        self._connection.request("POST", CHAT, chat(stream=True))
        self.response = self._connection.getresponse()

    def event(self) -> bytes:
        """The next event without the blank line behind it; empty at the end."""
        line = self.response.readline().rstrip(b"\n")
        self.response.readline()
        return line

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@pytest.fixture
def stream_client(server: Gateway) -> Iterator[StreamClient]:
    client = StreamClient(server)
    yield client
    client.close()


def test_a_stream_passes_each_chunk_on_at_once_and_adds_done(
    server: Gateway, topic: Topic, stream_client: StreamClient
) -> None:
    request_id = topic.task()["request_id"]
    with node_socket(server) as node:
        for data in ('{"n":1.0e-5}', '"é"', "3"):
            node.send(frame(request_id, data))
            assert stream_client.event() == f"data: {data}".encode()
        node.send(frame(request_id, '{"last":1}', end=True))
        assert stream_client.event() == b'data: {"last":1}'
        assert stream_client.event() == b"data: [DONE]"
        assert stream_client.event() == b""
    assert stream_client.response.headers["Content-Type"] == "text/event-stream"
    counts = server.state.stats()["stream"]
    assert (counts["chunks"], counts["ended"], counts["connections"]) == (4, 1, 1)


def test_frames_before_publishing_returned_are_lost(server: Gateway, topic: Topic) -> None:
    with node_socket(server) as node:

        def send_at_once(task: Any) -> None:
            node.send(frame(task["request_id"], '"early"'))
            until(lambda: server.state.stats()["stream"]["early"] == 1, PATIENCE, "frame at the gateway")

        topic.on_publish = send_at_once
        client = Client(server, chat(stream=True))
        request_id = topic.task()["request_id"]
        registered(server, stream=1)
        node.send(frame(request_id, '"late"'))
        node.send(frame(request_id, end=True))
        assert client.result == (200, b'data: "late"\n\ndata: [DONE]\n\n')


def test_one_connection_serves_many_streams_and_fragments_are_joined(server: Gateway, topic: Topic) -> None:
    with node_socket(server) as node:
        for number in range(3):
            client = Client(server, chat(stream=True))
            request_id = topic.task()["request_id"]
            registered(server, stream=1)
            whole = frame(request_id, json.dumps("x" * 200_000), end=True)
            node.send(iter([whole[:10], whole[10:100_000], whole[100_000:]]))
            assert len(client.result[1]) > 200_000, f"stream {number}"
            registered(server)


@pytest.mark.parametrize(
    "wrong",
    ["{", "[]", "", '{"end":false,"data":1}', '{"request_id":"x","end":1}', '{"request_id":"x","data":NaN}', b"{}"],
)
def test_a_message_that_is_no_frame_is_dropped_without_an_answer(
    server: Gateway, topic: Topic, stream_client: StreamClient, wrong: str | bytes
) -> None:
    request_id = topic.task()["request_id"]
    with node_socket(server) as node:
        node.send(wrong)
        node.send(frame("unknown", "1"))
        node.send(frame(request_id, "1", end=True))
        assert stream_client.event() == b"data: 1"
        assert stream_client.event() == b"data: [DONE]"
    counts = server.state.stats()["stream"]
    assert (counts["invalid"], counts["unknown"]) == (1, 1)


def test_a_line_break_in_a_chunk_breaks_the_event_and_is_counted(
    server: Gateway, topic: Topic, stream_client: StreamClient
) -> None:
    request_id = topic.task()["request_id"]
    with node_socket(server) as node:
        node.send(frame(request_id, '{\n"x":1}', end=True))
        assert stream_client.event() == b"data: {"
    assert server.state.stats()["stream"]["newlines"] == 1


def test_a_frame_after_the_end_closes_the_connection_and_is_counted(
    server: Gateway, topic: Topic, stream_client: StreamClient
) -> None:
    request_id = topic.task()["request_id"]
    with node_socket(server) as node:
        node.send(frame(request_id, end=True))
        assert stream_client.event() == b"data: [DONE]"
        node.send(frame(request_id, "1"))
        with pytest.raises(ConnectionClosed):
            node.recv(timeout=PATIENCE)
    assert server.state.stats()["stream"]["after_end"] == 1


def test_a_silent_stream_is_kept_open_with_comments(topic: Topic) -> None:
    server = Gateway(topic.publish, port=0, keep_alive_s=0.05)
    server.start()
    try:
        with closing(StreamClient(server)) as client:
            assert client.event() == b": keep-alive"
            assert client.event() == b": keep-alive"
    finally:
        server.close()


def test_a_stream_ends_at_the_first_write_after_its_client_left(server: Gateway, topic: Topic) -> None:
    client = StreamClient(server)
    request_id = topic.task()["request_id"]
    client.close()
    with node_socket(server) as node:

        def gone() -> bool:
            node.send(frame(request_id, "1"))
            return bool(server.state.stats()["stream"]["clients_gone"] == 1)

        until(gone, PATIENCE, "client noticed as gone")
        registered(server)


def test_a_reader_that_blocks_on_a_client_that_left_answers_no_ping(server: Gateway) -> None:
    server.state.stream.register("left")  # its client's thread has gone after the reader looked the id up: nobody takes
    with node_socket(server) as node:
        node.send(frame("left", "1"))
        assert not node.ping().wait(0.3)
        node.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: not server.connections, PATIENCE, "reader gone with the node's connection")
