"""A stand-in for the module `pulsar`, as far as supervisor/broker uses it: in memory, in the caller's thread.

It follows what pulsar-client 3.13 was seen to do: a consumer asks for its receiver queue's size when it is made, for
one more message whenever its listener has returned, and for none while it is paused. Tests script its failures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

from supervisor.broker import protobuf


class PulsarException(Exception):
    """The base of the library's exceptions."""


class Timeout(PulsarException):
    """An operation took too long."""


class AuthorizationError(PulsarException):
    """The role has no right."""


class TopicNotFound(PulsarException):
    """There is no such topic, and the broker makes none."""


class TopicTerminated(PulsarException):
    """An administrator has ended the topic: nothing more is stored in it."""


class ProducerBlockedQuotaExceededError(PulsarException):
    """The backlog is over its quota, whose policy is to hold requests."""


class ProducerBlockedQuotaExceededException(PulsarException):
    """The backlog is over its quota, whose policy is an exception."""


class ProducerBusy(PulsarException):
    """The topic has as many producers as it may have."""


class ConsumerBusy(PulsarException):
    """The topic has as many consumers as it may have."""


class NotAllowedError(PulsarException):
    """The namespace has as many topics, or the topic as many subscriptions, as it may have."""


class IncompatibleSchema(PulsarException):
    """The topic has a schema, and the namespace demands one."""


class InvalidConfiguration(PulsarException):
    """The library refuses a combination of arguments."""


class MessageId:
    """The place of a message."""

    def __init__(self, entry: int, index: int, size: int) -> None:
        self._entry, self._index, self._size = entry, index, size

    def ledger_id(self) -> int:
        return 1

    def entry_id(self) -> int:
        return self._entry

    def partition(self) -> int:
        return -1

    def batch_index(self) -> int:
        return self._index

    def serialize(self) -> bytes:
        data = protobuf.number(1, 1) + protobuf.number(2, self._entry)
        return data + (protobuf.number(4, self._index) + protobuf.number(6, self._size) if self._size else b"")


class Message:
    """A message as a consumer gets it."""

    def __init__(self, entry: int, index: int = -1, size: int = 0, redeliveries: int = 0) -> None:
        self.entry, self.index, self._size, self._redeliveries = entry, index, size, redeliveries

    def message_id(self) -> MessageId:
        return MessageId(self.entry, self.index, self._size)

    def data(self) -> bytes:
        return f"{self.entry}/{self.index}".encode()

    def producer_name(self) -> str:
        return "gateway"

    def publish_timestamp(self) -> int:
        return 0

    def redelivery_count(self) -> int:
        return self._redeliveries


class Consumer:
    """A Shared consumer. `deliver` is the broker's side."""

    def __init__(self, listener: Callable[[Any, Any], None] | None, queue_size: int) -> None:
        self._listener = listener
        self.permits = queue_size  # messages that the library has asked for
        self._unsent_permits = 0
        self._is_running = True
        self._queue: deque[Message] = deque()
        self.acked: list[int] = []
        self.naked: list[int] = []
        self.is_closed = False
        self.is_up = True

    def deliver(self, *messages: Message) -> None:
        """Deliver an entry: one message, or the messages of a batch."""
        self.permits -= len(messages)
        self._queue.extend(messages)
        self.run()

    def run(self) -> None:
        """Call the listener with what waits, as the library's own thread does some time after it was resumed."""
        while self._queue and self._is_running and self._listener is not None:
            self._listener(self, self._queue.popleft())
            self._unsent_permits += 1
            self._flow()

    def _flow(self) -> None:
        if self._is_running:
            self.permits, self._unsent_permits = self.permits + self._unsent_permits, 0

    def reconnect(self) -> None:
        """The connection was lost, and the library has subscribed anew: it asks for messages, paused or not."""
        self._queue.clear()
        self.permits, self._unsent_permits = 1, 0

    def pause_message_listener(self) -> None:
        self._is_running = False

    def resume_message_listener(self) -> None:
        self._is_running = True
        self._flow()

    def acknowledge(self, message: Message) -> None:
        if self.is_closed:
            raise PulsarException("AlreadyClosed")
        self.acked.append(message.entry)

    def negative_acknowledge(self, message: Message) -> None:
        self.naked.append(message.entry)

    def is_connected(self) -> bool:
        return self.is_up and not self.is_closed

    def close(self) -> None:
        self.is_closed = True


class Result(Enum):
    """What became of a message that was sent."""

    Ok = 0
    Timeout = 1
    MessageTooBig = 2

    def __str__(self) -> str:
        return f"Result.{self.name}"


class Producer:
    """Keeps what is sent; `results` holds the outcome of each, None: nothing yet."""

    def __init__(self, topic: str, results: list[Any]) -> None:
        self.topic = topic
        self._results = results
        self.sent: list[bytes] = []
        self.properties: list[Any] = []
        self.pending: list[Callable[[Any, object], None]] = []
        self.is_up = True

    def send_async(self, data: bytes, callback: Callable[[Any, object], None], properties: Any = None) -> None:
        result = self._results.pop(0) if self._results else Result.Ok
        if isinstance(result, Exception):
            raise result
        self.sent.append(data)
        self.properties.append(properties)
        if result is None:
            self.pending.append(callback)
        else:
            callback(result, None)

    def flush(self) -> None:
        while self.pending:
            self.pending.pop()(Result.Ok, None)

    def is_connected(self) -> bool:
        return self.is_up

    def close(self) -> None:
        self.is_up = False


class Library:
    """The module. `failures` are raised by the next operations of clients: (name of the method, exception)."""

    PulsarException = PulsarException
    Timeout = Timeout
    AuthorizationError = AuthorizationError
    TopicNotFound = TopicNotFound
    TopicTerminated = TopicTerminated
    ProducerBlockedQuotaExceededError = ProducerBlockedQuotaExceededError
    ProducerBlockedQuotaExceededException = ProducerBlockedQuotaExceededException
    ProducerBusy = ProducerBusy
    ConsumerBusy = ConsumerBusy
    NotAllowedError = NotAllowedError
    IncompatibleSchema = IncompatibleSchema
    InvalidConfiguration = InvalidConfiguration
    Result = Result
    ConsumerType = SimpleNamespace(Shared="Shared")
    InitialPosition = SimpleNamespace(Earliest="Earliest")
    CompressionType = SimpleNamespace(ZSTD="ZSTD")
    LoggerLevel = SimpleNamespace(Error="Error")

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failures: list[tuple[str, Exception]] = []
        self.results: list[Any] = []  # of the next messages that are sent
        self.partitions = 0  # of the topics; 0: they are not partitioned
        self.clients: list[Client] = []
        self.consumers: list[Consumer] = []  # those with a listener
        self.producers: list[Producer] = []

    def FileLogger(self, level: object, path: str) -> None:
        """No log."""

    def AuthenticationToken(self, token: str) -> str:
        return token

    def Client(self, url: str, **how: Any) -> Client:
        self.called("client", url)
        self.clients.append(Client(self))
        return self.clients[-1]

    def called(self, name: str, what: Any) -> None:
        """Note a call, and fail if it is to."""
        self.calls.append((name, what))
        for failure in self.failures:
            if failure[0] == name:
                self.failures.remove(failure)
                raise failure[1]


class Client:
    """A client of the fake library."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.topics: set[str] = set()  # that it was used for
        self.is_closed = False

    def create_producer(self, topic: str, **how: Any) -> Producer:
        self.topics.add(topic)
        self._library.called("create_producer", topic)
        producer = Producer(topic, self._library.results)
        self._library.producers.append(producer)
        return producer

    def get_topic_partitions(self, topic: str) -> list[str]:
        count = self._library.partitions
        return [f"{topic}-partition-{number}" for number in range(count)] if count else [topic]

    def subscribe(self, topic: str, subscription: str, **how: Any) -> Consumer:
        self.topics.add(topic)
        listener = how.get("message_listener")
        self._library.called("subscribe" if listener else "try_to_subscribe", topic)
        consumer = Consumer(listener, how["receiver_queue_size"])
        if listener:
            self._library.consumers.append(consumer)
        return consumer

    def close(self) -> None:
        self.is_closed = True
        self._library.called("close", None)
