"""What the development gateway makes of requests and plain answers (spec 1.1 and 1.2). The test plays the node."""

from __future__ import annotations

import http.client
import json
import re
import socket
from contextlib import closing
from typing import Any

import pytest

from devstack.gateway import Gateway
from tests.integration.gateway_clients import CHAT, PATIENCE, Client, Topic, chat, post, registered

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def answer(server: Gateway, request_id: str, data: str) -> tuple[int, bytes]:
    return post(server.address, "/res", f'{{"request_id":"{request_id}","data":{data}}}')


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


# The rest.


def test_an_unknown_path_or_a_missing_length_is_an_error(server: Gateway) -> None:
    assert post(server.address, "/nowhere", "{}")[0] == 404
    with socket.create_connection(server.server_address[:2], timeout=PATIENCE) as connection:  # type: ignore[arg-type]
        connection.sendall(b"POST /res HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 411 " in connection.recv(100)
