"""Tasks of 4 MB for a node that serves small ones at the same time, from a process of their own."""

from __future__ import annotations

import json
import uuid
from functools import partial
from multiprocessing.connection import Connection as Pipe

import pulsar

from benchmarks.gateway import Gateway
from benchmarks.load import question
from benchmarks.server_process import ServerProcess

CHARACTERS = 4_000_000
PAUSE_S = 0.25  # between two of them
LAST_S = 10.0  # for the answers that are missing at the end


class LargeTasks:
    """Publishes large tasks until `stop`. The answers come to a gateway of their own."""

    def __init__(self, broker_url: str, model: str) -> None:
        self._gateway = Gateway()
        self._process = ServerProcess(partial(publish, broker_url, model, self._gateway.post_url))

    def stop(self) -> int:
        """End it, and return how many large tasks were answered."""
        self._process.pipe.send(None)
        published: int = self._process.pipe.recv()
        answered = 0
        while answered < published and self._gateway.pipe.poll(LAST_S):
            answered += bool(self._gateway.pipe.recv())
        self._process.close()
        self._gateway.close()
        return answered


def publish(broker_url: str, model: str, endpoint: str, pipe: Pipe) -> None:
    """Run the process: publish until something comes through the pipe, then send how many it were."""
    client = pulsar.Client(broker_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    producer = client.create_producer(f"model-{model}", batching_enabled=False)
    data = question(False, user="x" * CHARACTERS)
    pipe.send(0)  # it listens on no port
    count = 0
    while not pipe.poll(PAUSE_S):
        task = {"request_id": str(uuid.uuid4()), "stream": False, "endpoint": endpoint, "data": data}
        producer.send(json.dumps(task).encode())
        count += 1
    pipe.send(count)
    pipe.poll(None)  # the end of the pipe
    client.close()
