"""One consumer for each partition of a topic, behind the interface of a single one.

The library's own consumer for a partitioned topic asks every partition for a message at once, and keeps what a paused
listener does not take where nobody sees it. Here one partition after the other is asked, so that little more comes than
was asked for: a message from each partition at most that was asked before and had none then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Listener = Callable[[Any, Any], None]


class PartitionedConsumer:
    """The consumers of all partitions. `resume_message_listener` asks one more of those that are paused, in turn.

    Args:
        subscribe: given a topic and a listener, returns a consumer.
        listener: called with a consumer that can be paused, and with a message.
    """

    def __init__(self, subscribe: Callable[[str, Listener], Any], listener: Listener) -> None:
        self._subscribe = subscribe
        self._listener = listener
        self._consumers: dict[str, Any] = {}  # by the partition's topic
        self._paused: dict[str, None] = {}  # topics, the one that was paused first in front

    def add(self, topics: Sequence[str]) -> None:
        """Subscribe to the partitions that are not subscribed to yet."""
        for topic in topics:
            if topic not in self._consumers:
                self._consumers[topic] = self._subscribe(topic, self._listener_of(topic))

    def _listener_of(self, topic: str) -> Listener:
        def arrived(consumer: Any, message: Any) -> None:
            self._listener(_Pausable(lambda: self._pause(topic, consumer)), message)

        return arrived

    def _pause(self, topic: str, consumer: Any) -> None:
        self._paused[topic] = None
        consumer.pause_message_listener()

    def resume_message_listener(self) -> bool:
        """Ask one more partition for a message, if one is paused. Returns: whether others are still paused."""
        for topic in list(self._paused)[:1]:
            consumer = self._consumers.get(topic)
            if consumer is not None:  # else it is just being subscribed to
                del self._paused[topic]
                consumer.resume_message_listener()
        return bool(self._paused)

    def acknowledge(self, message: Any) -> None:
        """Acknowledge at the consumer that brought the message."""
        self._consumers[message.topic_name()].acknowledge(message)

    def negative_acknowledge(self, message: Any) -> None:
        """Nak at the consumer that brought the message."""
        self._consumers[message.topic_name()].negative_acknowledge(message)

    def is_connected(self) -> bool:
        """Return True if all partitions are connected."""
        return all(consumer.is_connected() for consumer in self._consumers.values())

    def close(self) -> None:
        """Close all consumers."""
        for consumer in self._consumers.values():
            consumer.close()


class _Pausable:
    """What the listener gets: pauses the consumer that called it, and no other."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self.pause_message_listener = pause
