"""The development gateway keeps spec 1.1 and 1.2, traps included. The node's side is played by the test."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pulsar
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from devstack.broker import Broker
from devstack.gateway import Gateway
from tests.support.wait import until

CHAT = "/v1/chat/completions"
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
PATIENCE = 20.0  # seconds; a bound for a broken run


class Topic:
    """What the gateway publishes on: keeps the tasks. `on_publish` runs before publishing returns."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.on_publish: Callable[[Any], None] = lambda task: None

    def publish(self, topic: str, payload: bytes) -> None:
        self.on_publish(json.loads(payload))
        self.topics.append(topic)
        self.tasks.put(payload)

    def task(self) -> Any:
        return json.loads(self.tasks.get(timeout=PATIENCE))


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def server(topic: Topic) -> Iterator[Gateway]:
    gateway = Gateway(topic.publish, port=0)
    gateway.start()
    yield gateway
    gateway.close()


def post(address: str, path: str, body: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
        connection.request("POST", path, body.encode(), headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def chat(**members: Any) -> str:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **members})


class Client(threading.Thread):
    """A client that asks in the background; `result` is (status, body)."""

    def __init__(
        self, server: Gateway, body: str, path: str = CHAT, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(daemon=True)
        self._args = (server.address, path, body, headers)
        self._result: tuple[int, bytes] | None = None
        self.start()

    def run(self) -> None:
        with suppress(OSError, http.client.HTTPException):  # the gateway of a finished test is closed
            self._result = post(*self._args)

    @property
    def result(self) -> tuple[int, bytes]:
        self.join(PATIENCE)
        assert self._result is not None, "the client got no answer"
        return self._result


def answer(server: Gateway, request_id: str, data: str) -> tuple[int, bytes]:
    return post(server.address, "/res", f'{{"request_id":"{request_id}","data":{data}}}')


def taken(address: str, body: str) -> bool:
    return post(address, "/res", body)[0] == 200


def registered(server: Gateway, plain: int = 0, stream: int = 0) -> None:
    """Wait until so many clients wait: publishing has returned and their ids are known."""
    until(
        lambda: (server.state.plain.counts()["waiting"], server.state.stream.counts()["waiting"]) == (plain, stream),
        PATIENCE,
        "registered ids",
    )


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


# Clients and tasks (spec 1.1).


@pytest.mark.parametrize("path", [CHAT, "/api/v1/chat/completions"])
@pytest.mark.parametrize(("stream", "endpoint"), [(False, "http://{}/res"), (True, "ws://{}/res/ws")])
def test_a_request_becomes_a_task(server: Gateway, topic: Topic, path: str, stream: bool, endpoint: str) -> None:
    Client(server, chat(stream=stream), path)
    task = topic.task()
    assert topic.topics == ["model-m"]
    assert re.fullmatch(UUID4, task["request_id"])
    assert task["stream"] is stream
    assert task["endpoint"] == endpoint.format(server.address)
    assert task["data"] == json.loads(chat(stream=stream))
    assert set(task) == {"request_id", "stream", "endpoint", "data", "metadata"}


def test_the_task_holds_the_clients_headers_as_lists(server: Gateway, topic: Topic) -> None:
    Client(server, chat(), headers={"user-agent": "someone/1", "Authorization": "Bearer x"})
    found = topic.task()["metadata"]["headers"]
    assert found["User-Agent"] == ["someone/1"]
    assert found["Authorization"] == ["Bearer x"]
    assert "Host" not in found


def test_the_request_is_published_unchanged_except_for_white_space(server: Gateway, topic: Topic) -> None:
    Client(server, '{ "model" : "m",\n "x": [1.0e-5, 1E400, "two  \\" spaces\\n"],\t"x": {} }')
    payload = topic.tasks.get(timeout=PATIENCE).decode()
    assert payload.endswith(',"data":{"model":"m","x":[1.0e-5,1E400,"two  \\" spaces\\n"],"x":{}}}')
    assert "\n" not in payload


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", "null", '"x"', '{"model":"m"', '{"model":"m"} x', '{"model":"m",}', '{"model":"m","x":NaN}'),
        *('{"messages":[]}', '{"model":5}', '{"model":""}', '{"model":"m","stream":"yes"}', '{"model":"m","stream":1}'),
        '{"model":"m","x":' + "[" * 100_000,
    ],
    ids=range(15),
)
def test_a_body_that_is_no_chat_request_is_refused(server: Gateway, topic: Topic, body: str) -> None:
    status, text = post(server.address, CHAT, body)
    assert status == 400
    assert json.loads(text)["error"]["type"] == "invalid_request_error"
    assert topic.topics == []


def test_stream_null_means_plain(server: Gateway, topic: Topic) -> None:
    Client(server, chat(stream=None))
    assert topic.task()["stream"] is False


def test_the_client_gets_500_if_the_broker_refuses(server: Gateway, topic: Topic) -> None:
    def refuse(task: Any) -> None:
        raise RuntimeError("no broker")

    topic.on_publish = refuse
    status, text = post(server.address, CHAT, chat())
    assert status == 500
    assert "no broker" in json.loads(text)["error"]["message"]
    assert server.state.stats()["plain"]["waiting"] == 0


# Plain answers (spec 1.2).


@pytest.mark.parametrize("data", ['{"n": 1.0e-5, "s":"\\u00e9é\\n"}', '{"error":{"message":"no"}}', "null", "[ ]"])
def test_a_plain_answer_reaches_its_client_unchanged_with_200(server: Gateway, topic: Topic, data: str) -> None:
    client = Client(server, chat())
    request_id = topic.task()["request_id"]
    registered(server, plain=1)
    assert answer(server, request_id, data) == (200, b'{"status": "ok"}')
    assert client.result == (200, data.encode())


def test_an_answer_before_publishing_returned_finds_no_client(server: Gateway, topic: Topic) -> None:
    early: list[tuple[int, bytes]] = []
    topic.on_publish = lambda task: early.append(answer(server, task["request_id"], "1"))
    client = Client(server, chat())
    request_id = topic.task()["request_id"]
    assert early == [(404, b'{"error": "Request ID not found"}')]
    registered(server, plain=1)
    assert answer(server, request_id, "2")[0] == 200
    assert client.result == (200, b"2")
    assert server.state.stats()["plain"]["early"] == 1


def test_an_unknown_id_and_a_second_answer_get_404_and_are_counted_apart(server: Gateway, topic: Topic) -> None:
    client = Client(server, chat())
    request_id = topic.task()["request_id"]
    registered(server, plain=1)
    assert answer(server, "nobody", "1") == (404, b'{"error": "Request ID not found"}')
    assert answer(server, request_id, "1")[0] == 200
    assert client.result == (200, b"1")
    registered(server)
    assert answer(server, request_id, "2")[0] == 404
    counts = server.state.stats()["plain"]
    assert (counts["unknown"], counts["duplicate"], counts["answered"]) == (1, 1, 1)


@pytest.mark.parametrize("body", ["", "{", "[]", '{"request_id":"x"}', '{"data":1}', '{"request_id":1,"data":1}'])
def test_a_post_that_is_no_answer_gets_400(server: Gateway, body: str) -> None:
    assert post(server.address, "/res", body)[0] == 400
    assert server.state.stats()["plain"]["invalid"] == 1


def test_a_plain_client_gets_408_after_the_wait(topic: Topic) -> None:
    server = Gateway(topic.publish, port=0, plain_wait_s=0.1)
    server.start()
    try:
        status, text = Client(server, chat()).result
        assert status == 408
        assert json.loads(text)["error"]["type"] == "request_timeout_error"
        assert answer(server, topic.task()["request_id"], "1")[0] == 404
        assert server.state.stats()["plain"]["timed_out"] == 1
    finally:
        server.close()


def test_a_plain_client_that_left_is_not_noticed(server: Gateway, topic: Topic) -> None:
    with closing(http.client.HTTPConnection(server.address)) as connection:
        connection.request("POST", CHAT, chat())
        request_id = topic.task()["request_id"]
        registered(server, plain=1)
    assert answer(server, request_id, "1")[0] == 200


def test_hundreds_of_clients_wait_at_once_and_each_gets_its_own(server: Gateway, topic: Topic) -> None:
    clients = [Client(server, chat(user=str(number))) for number in range(250)]
    registered(server, plain=250)
    for _ in clients:
        task = topic.task()
        assert answer(server, task["request_id"], task["data"]["user"])[0] == 200
    assert [client.result for client in clients] == [(200, str(number).encode()) for number in range(250)]


# Streams (spec 1.2).


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


# The rest.


def test_an_unknown_path_or_a_missing_length_is_an_error(server: Gateway) -> None:
    assert post(server.address, "/nowhere", "{}")[0] == 404
    with socket.create_connection(server.server_address[:2], timeout=PATIENCE) as connection:  # type: ignore[arg-type]
        connection.sendall(b"POST /res HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 411 " in connection.recv(100)


class GatewayProcess:
    """`python -m devstack.gateway`, up and running."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devstack.gateway", *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line.startswith("ready http://"), line
        return line.removeprefix("ready http://")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_tasks_go_through_a_real_broker_and_answers_come_back(broker: Broker) -> None:
    model = f"gateway-{uuid.uuid4().hex}"
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    consumer = client.subscribe(f"model-{model}", "test", initial_position=pulsar.InitialPosition.Earliest)
    with closing(client), closing(GatewayProcess("--port", "0", "--pulsar-url", broker.url)) as command:
        address = command.ready()
        answers: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

        def ask() -> None:
            answers.put(post(address, CHAT, chat(model=model)))

        for _ in range(20):
            threading.Thread(target=ask, daemon=True).start()
        for _ in range(20):
            message = consumer.receive(timeout_millis=int(PATIENCE * 1000))
            consumer.acknowledge(message)
            body = f'{{"request_id":"{json.loads(message.data())["request_id"]}","data":{{"n":1.0e-5}}}}'
            until(partial(taken, address, body), PATIENCE, "registered id")
        assert [answers.get(timeout=PATIENCE) for _ in range(20)] == [(200, b'{"n":1.0e-5}')] * 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_ready_and_stops_on_a_signal(number: signal.Signals) -> None:
    with closing(GatewayProcess("--port", "0", "--pulsar-url", "pulsar://127.0.0.1:1")) as command:
        address = command.ready()
        with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        command.process.send_signal(number)
        assert command.process.wait(PATIENCE) == 0


def test_the_error_about_a_taken_port_names_the_variable(server: Gateway) -> None:
    port = server.address.partition(":")[2]
    with closing(GatewayProcess(GATEWAY_PORT=port)) as command:
        output, errors = command.process.communicate(timeout=PATIENCE)
    assert command.process.returncode == 1
    assert errors == f"gateway: port {port} cannot be used (Address already in use): choose another with GATEWAY_PORT\n"
    assert output == ""
