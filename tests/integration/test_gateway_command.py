"""What `python -m devstack.gateway` does with a real broker, when a signal comes, and when its port is taken."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import closing
from functools import partial

import pulsar
import pytest

from devstack.broker import Broker
from devstack.gateway import Gateway
from tests.integration.gateway_clients import CHAT, PATIENCE, chat, post
from tests.support.wait import until


def taken(address: str, body: str) -> bool:
    return post(address, "/res", body)[0] == 200


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
