"""The clients of the development gateway, and the topic that it publishes on, for its tests."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from devstack.gateway import Gateway
from tests.support.wait import until

CHAT = "/v1/chat/completions"
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


def registered(server: Gateway, plain: int = 0, stream: int = 0) -> None:
    """Wait until so many clients wait: publishing has returned and their ids are known."""
    until(
        lambda: (server.state.plain.counts()["waiting"], server.state.stream.counts()["waiting"]) == (plain, stream),
        PATIENCE,
        "registered ids",
    )
