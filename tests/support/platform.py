"""The platform's side of the broker: publishes tasks as its gateway does, and reads what a node leaves behind.

Each test has a model name of its own, and a topic for records of its own, so that nothing leaks from one into another.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pulsar
import requests

from supervisor.claims.table import decode
from tests.support.gateway import Answer, FakeGateway
from tests.support.wait import until, until_equal

T = TypeVar("T")


class Broker(Protocol):
    """What the fixture `broker` gives."""

    @property
    def url(self) -> str: ...
    @property
    def admin_url(self) -> str: ...


@dataclass(frozen=True)
class DeadLetter:
    """A message on the dead-letter topic."""

    payload: bytes
    properties: dict[str, str]


class Platform:
    """Everything that a test does to, or asks of, the broker.

    Args:
        register_delay: seconds from beginning to publish a task until its id is registered at the gateway; None: it is
            never registered. The real platform publishes first and registers at once (spec 1.2). A test's process may
            be late by more than a node waits, so that with 0 the id is known from the beginning.
    """

    def __init__(
        self, broker: Broker, gateway: FakeGateway, model: str | None = None, client: pulsar.Client | None = None
    ) -> None:
        self.broker = broker
        self.gateway = gateway
        self.model = model or f"t-{uuid.uuid4().hex[:12]}"
        self.register_delay: float | None = 0
        self.topic = f"model-{self.model}"
        self.subscription = f"model-{self.model}-subscription"
        self.res_topic = f"res-{self.model}"
        self.dead_letter_topic = f"{self.topic}-{self.subscription}-DLQ"
        self.asked: list[str] = []  # ids of all tasks published by `ask` and `ask_many`
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy has no business between us and 127.0.0.1
        self._own_client = client is None
        self._client = client or pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        self._producer = self._client.create_producer(self.topic, batching_enabled=False, block_if_queue_full=True)
        self._batching: pulsar.Producer | None = None
        self._readers = {self.res_topic: self._reader(self.res_topic)}
        self._records: list[dict[str, Any]] = []
        self._announced_ends: set[str] = set()
        self._dead_letters: list[DeadLetter] = []

    # Publishing.

    def task(
        self,
        ask: str | Mapping[str, Any] | list[dict[str, Any]] = "hello",
        stream: bool = False,
        request_id: str | None = None,
        task: Mapping[str, Any] | None = None,
        **chat: Any,
    ) -> dict[str, Any]:
        """A task as the platform writes it (spec 1.1).

        Args:
            ask: the user's words; or a dictionary, a directive for the fake upstream; or a list, the whole messages.
            task: fields of the task itself that are to be different; None as a value leaves the field out.
            chat: further fields of the client's chat request.
        """
        if isinstance(ask, Mapping):
            ask = "lab:" + json.dumps(ask, ensure_ascii=False)
        messages = ask if isinstance(ask, list) else [{"role": "user", "content": ask}]
        whole: dict[str, Any] = {
            "request_id": request_id or str(uuid.uuid4()),
            "stream": stream,
            "endpoint": self.gateway.ws_url if stream else self.gateway.post_url,
            "data": {"model": self.model, "messages": messages, **({"stream": True} if stream else {}), **chat},
            "metadata": {"headers": {"User-Agent": ["test-client/1.0"]}},
        }
        whole.update(task or {})
        return {name: value for name, value in whole.items() if value is not None}

    def ask(
        self,
        ask: str | Mapping[str, Any] | list[dict[str, Any]] = "hello",
        stream: bool = False,
        request_id: str | None = None,
        task: Mapping[str, Any] | None = None,
        **chat: Any,
    ) -> str:
        """Publish a task, and register its id after `register_delay`; gives the id. See `task` for what goes in."""
        whole = self.task(ask, stream, request_id, task, **chat)
        id: str = whole.get("request_id", "")
        self.asked.append(id)
        self._register(id)
        self.publish(json.dumps(whole, ensure_ascii=False).encode())
        return id

    def ask_many(
        self,
        asks: Iterable[str | Mapping[str, Any] | list[dict[str, Any]]],
        stream: bool = False,
        batched: bool = False,
        **chat: Any,
    ) -> list[str]:
        """The same for many at once, without waiting for the broker between them; gives the ids, all published.

        Args:
            batched: as one entry of the broker's, as a publisher's library does with what comes within milliseconds.
        """
        producer = self._batching_producer() if batched else self._producer
        ids = []
        for ask in asks:
            whole = self.task(ask, stream, **chat)
            id: str = whole["request_id"]
            ids.append(id)

            def published(result: pulsar.Result, message: Any, id: str = id) -> None:
                if result != pulsar.Result.Ok:
                    self.gateway.mistake(f"{id} was not published: {result}")

            self._register(id)
            producer.send_async(json.dumps(whole, ensure_ascii=False).encode(), published)
        producer.flush()
        self.asked += ids
        return ids

    def _batching_producer(self) -> pulsar.Producer:
        """One that sends nothing before it is flushed."""
        if self._batching is None:
            self._batching = self._client.create_producer(
                self.topic, batching_enabled=True, batching_max_publish_delay_ms=60_000
            )
        return self._batching

    def publish(self, payload: bytes, **properties: str) -> None:
        """Publish any bytes on the model's topic. Registers nothing."""
        self._producer.send(payload, properties=properties or None)

    def ask_and_wait(
        self,
        ask: str | Mapping[str, Any] | list[dict[str, Any]] = "hello",
        stream: bool = False,
        timeout: float = 20,
        **chat: Any,
    ) -> Answer:
        """Ask, and wait for the answer."""
        return self.gateway.answer(self.ask(ask, stream, **chat)).wait(timeout)

    def _register(self, id: str) -> None:
        if self.register_delay is not None:
            self.gateway.register_after(self.register_delay, id)

    # The broker's figures.

    def admin(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """A call of the broker's admin API, path below /admin/v2/; raises for a refusal."""
        answer = self._http.request(method, f"{self.broker.admin_url}/admin/v2/{path}", timeout=10, **arguments)
        answer.raise_for_status()
        return answer

    def stats(self, topic: str = "") -> dict[str, Any]:
        """The broker's figures of a topic (default: the model's)."""
        path = f"persistent/public/default/{topic or self.topic}/stats?getPreciseBacklog=true"
        stats: dict[str, Any] = self.admin("GET", path).json()
        return stats

    def subscription_stats(self) -> dict[str, Any]:
        """The broker's figures of the model's subscription; empty before a node subscribed."""
        stats: dict[str, Any] = self.stats()["subscriptions"].get(self.subscription, {})
        return stats

    def backlog(self) -> int:
        """Messages not acknowledged, at a node or waiting: what autoscaling reads. -1: no subscription yet."""
        return int(self.subscription_stats().get("msgBacklog", -1))

    def unacked(self) -> int:
        """Messages handed to nodes and not acknowledged. -1: no subscription yet."""
        return int(self.subscription_stats().get("unackedMessages", -1))

    def consumers(self) -> list[dict[str, Any]]:
        """The broker's figures of each consumer: a node is one."""
        consumers: list[dict[str, Any]] = self.subscription_stats().get("consumers", [])
        return consumers

    def wait_backlog(self, count: int = 0, timeout: float = 20) -> None:
        """Wait until the backlog is this."""
        until_equal(_patiently(self.backlog), count, timeout, f"backlog of {count} on {self.topic}")

    def wait_unacked(self, count: int, timeout: float = 20) -> None:
        """Wait until so many messages are handed out and not acknowledged."""
        until_equal(_patiently(self.unacked), count, timeout, f"{count} unacknowledged on {self.topic}")

    # What a node leaves behind.

    def records(self) -> list[dict[str, Any]]:
        """Every record published up to this moment, in order."""
        self._records += [json.loads(message.data()) for message in self._read(self.res_topic)]
        return self._records[:]

    def records_of(self, id: str, count: int = 1, timeout: float = 20) -> list[dict[str, Any]]:
        """The records of one id, once there are so many (there may be more)."""
        return self.wait_records(lambda one: one.get("request_id") == id, count, timeout, f"records of {id}")

    def record_of(self, id: str, timeout: float = 20) -> dict[str, Any]:
        """The record of an id that has only one so far."""
        (record,) = self.records_of(id, 1, timeout)
        return record

    def wait_records(
        self,
        wanted: Callable[[dict[str, Any]], bool] = lambda record: True,
        count: int = 1,
        timeout: float = 20,
        what: str = "records",
    ) -> list[dict[str, Any]]:
        """The records that a function accepts, once there are so many."""
        return _at_least(count, lambda: [one for one in self.records() if wanted(one)], timeout, what)

    def announced_ends(self) -> set[str]:
        """The ids of streams of which a node has said that their end is about to leave, and has not taken it back."""
        for message in self._read(f"{self.topic}-claims"):
            claims = decode(message.data())
            assert claims is not None
            self._announced_ends.update(claims.ended)
            self._announced_ends.difference_update(claims.unended)
        return self._announced_ends

    def dead_letters(self) -> list[DeadLetter]:
        """Every dead letter published up to this moment, in order."""
        for message in self._read(self.dead_letter_topic):
            self._dead_letters.append(DeadLetter(message.data(), message.properties()))
        return self._dead_letters[:]

    def wait_dead_letters(self, count: int = 1, timeout: float = 20) -> list[DeadLetter]:
        """The dead letters, once there are so many."""
        return _at_least(count, self.dead_letters, timeout, "dead letters")

    def dead_letter_subscriptions(self) -> list[str]:
        """The durable subscriptions of the dead-letter topic, without which the broker would not keep it."""
        subscriptions = self.stats(self.dead_letter_topic)["subscriptions"]
        return [name for name, figures in subscriptions.items() if figures.get("isDurable")]

    def wait_balanced(self, ids: Iterable[str] | None = None, timeout: float = 60) -> None:
        """Wait until each id (default: all asked) has its answer and its record and nothing is left in the broker."""
        wanted = list(self.asked if ids is None else ids)
        self.gateway.wait_all(wanted, timeout)
        self.wait_backlog(0, timeout)

        def without_record() -> int:
            return len(set(wanted) - {one.get("request_id") for one in self.records()})

        until_equal(_patiently(without_record), 0, timeout, "record for every id; ids without one")

    def close(self) -> None:
        """Let go of the broker, and delete the topics. A broker that is gone does not matter."""
        for reader in self._readers.values():
            _quietly(reader.close)
        _quietly(self._producer.close)
        for topic in {self.topic, *self._readers}:
            _quietly(lambda: self.admin("DELETE", f"persistent/public/default/{topic}?force=true"))  # noqa: B023
        self._http.close()
        if self._own_client:
            _quietly(self._client.close)

    def _reader(self, topic: str) -> pulsar.Reader:
        return self._client.create_reader(topic, pulsar.MessageId.earliest)

    def _read(self, topic: str) -> list[pulsar.Message]:
        if topic not in self._readers:
            self._readers[topic] = self._reader(topic)
        reader, messages = self._readers[topic], []
        while reader.has_message_available():
            messages.append(reader.read_next(5000))
        return messages


def _patiently(read: Callable[[], T]) -> Callable[[], T]:
    """The same, with a broker that does not answer at the moment counting as "not yet"."""

    def reading() -> T:
        try:
            return read()
        except (requests.RequestException, pulsar.PulsarException) as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from None

    return reading


def _at_least(count: int, read: Callable[[], list[T]], timeout: float, what: str) -> list[T]:
    """What `read` gives, once it has so many."""

    def enough() -> list[T]:
        found = _patiently(read)()
        assert len(found) >= count, f"{len(found)} {what}"
        return found

    return until(enough, timeout, f"{count} {what}")


def _quietly(close: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # the broker may have been killed by the test: nothing is left to release
        close()
