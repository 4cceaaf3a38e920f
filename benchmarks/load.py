"""The load: a number of clients, each of which asks again as soon as it has its answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from array import array
from collections.abc import Callable
from typing import Any

import pulsar

from benchmarks.figures import BenchmarkError, Sample
from benchmarks.gateway import Gateway, Report
from benchmarks.upstream import MODEL

SILENCE_S = 60.0  # without any answer for this long, the target counts as hung
QUESTION = "What is the answer to the ultimate question of life, the universe, and everything?"
Tick = Callable[[int], None]  # is called with the number of answers so far


def question(stream: bool, **more: Any) -> dict[str, Any]:
    """Return a client's chat request."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **more}
    return {**asked, "stream": True} if stream else asked


class Clients:
    """Clients of the platform: they publish tasks for one model, and get the answers from the gateway."""

    def __init__(self, broker: pulsar.Client, gateway: Gateway, model: str) -> None:
        self._gateway = gateway
        self._asked: dict[str, float] = {}
        self._answered: set[str] = set()
        self._producer = broker.create_producer(f"model-{model}", batching_enabled=False, block_if_queue_full=True)

    def run(self, count: int, clients: int, stream: bool, tick: Tick) -> list[Sample]:
        """Ask `count` questions with `clients` clients, and return their samples.

        Raises:
            BenchmarkError: an answer was an error, came twice or did not come.
        """
        samples: list[Sample] = []
        for _ in range(min(clients, count)):
            self.ask(stream)
        for left in reversed(range(count)):
            samples.append(self.answered())
            if left >= clients:
                self.ask(stream)
            tick(len(samples))
        return samples

    def run_for(self, seconds: float, clients: int, tick: Tick, **more: Any) -> list[Sample]:
        """Ask for streams with `clients` clients for this time. Of unfinished answers the chunks so far count."""
        samples: list[Sample] = []
        end = time.monotonic() + seconds
        for _ in range(clients):
            self.ask(True, **more)
        while (left := end - time.monotonic()) > 0:
            if self._gateway.pipe.poll(left):
                samples.append(self.answered())
                self.ask(True, **more)
                tick(len(samples))
        self._gateway.cut()
        while report := self._gateway.pipe.recv():
            samples += self._sample(report)
        return samples

    def ask(self, stream: bool, **more: Any) -> None:
        """Publish a task."""
        id = str(uuid.uuid4())
        endpoint = self._gateway.ws_url if stream else self._gateway.post_url
        task = {"request_id": id, "stream": stream, "endpoint": endpoint, "data": question(stream, **more)}
        self._asked[id] = time.monotonic()
        self._producer.send_async(json.dumps(task).encode(), None)

    def answered(self) -> Sample:
        """Wait for the next answer."""
        while self._gateway.pipe.poll(SILENCE_S):
            for sample in self._sample(self._gateway.pipe.recv()):
                return sample
        raise BenchmarkError(f"{len(self._asked)} tasks are unanswered, and nothing came for {SILENCE_S:g} s")

    def _sample(self, report: Report) -> list[Sample]:
        """Return the sample of the gateway's report; nothing if it belongs to a load that was cut."""
        id, good, moments = report
        if id in self._answered:
            raise BenchmarkError(f"{id} was answered twice")
        if id not in self._asked:
            return []
        if not good:
            raise BenchmarkError(f"{id} was answered with an error")
        self._answered.add(id)
        return [Sample(self._asked.pop(id), array("d", moments))]

    def close(self) -> None:
        self._producer.close()


class Direct:
    """Clients that ask upstream directly, a thread each, without broker, node and gateway."""

    def __init__(self, port: int) -> None:
        self._port = port

    def run(self, count: int, clients: int, stream: bool, tick: Tick) -> list[Sample]:
        """Ask `count` questions with `clients` clients, and return their samples."""
        samples: list[Sample] = []
        tickets = iter(range(count))  # next() of a range's iterator is one step of the interpreter
        faults: list[Exception] = []

        def client() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENCE_S)
            try:
                for _ in tickets:
                    samples.append(_ask(connection, stream))
                    tick(len(samples))
            except Exception as error:  # the edge of the thread
                faults.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if faults:
            raise BenchmarkError(f"upstream failed when it was asked directly: {faults[0]!r}")
        return samples


def _ask(connection: http.client.HTTPConnection, stream: bool) -> Sample:
    asked = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(question(stream)).encode())
    response = connection.getresponse()
    if response.status != 200:
        raise BenchmarkError(f"upstream answered with status {response.status}")
    if not stream:
        response.read()
        return Sample(asked, [time.monotonic()])
    moments: list[float] = []
    while piece := response.read1():
        moments += [time.monotonic()] * piece.count(b"data: {")
    return Sample(asked, moments)
