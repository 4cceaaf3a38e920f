"""Which messages are taken from the consumer, and when. No message is asked for that the node has no room for.

The library asks the broker for the next message as soon as the listener has returned, unless the listener was paused.
So the intake pauses it with each message that leaves no room, and resumes it when there is room again: the broker has
then been asked for what may be taken and no more, and nothing lies in the library's queue. A message that was asked for
while there was room, and comes when there is none, is kept here: it is served next, or given back when it has waited
for some seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from supervisor.broker.protobuf import fields
from supervisor.events import ASKED_FOR, Entry, MessageKey, Received

GIVE_BACK = 1.0  # seconds that a message waits at a closed intake before it goes back to the broker
# Seconds that a message waits for room: longer than a dead worker is missed, because each way back counts as a
# redelivery, and shorter than most tasks run, because another node may have room.
WAIT_FOR_ROOM = 5.0

BATCH_SIZE, FIRST_CHUNK = 6, 7  # fields of MessageIdData, in Pulsar's PulsarApi.proto


class _Early(NamedTuple):
    came: float  # monotonic
    received: Received


class Intake:
    """Counts what may be taken and what was taken. The library's thread brings messages, the owner does all else.

    Args:
        take: called, in either thread, with each message that there is room for. It must not block.
        clock: monotonic time.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        take: Callable[[Received], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._take = take
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        # Counts of messages since the start: "how many more" could be misread while a message is on its way.
        self._allowed = 0  # how many may have been taken in all
        self._taken = 0  # how many were taken
        self._seen = 0  # how many of them the owner has seen
        self._consumer: Any = None
        self._token: object = None  # distinguishes the consumer's messages from those that an earlier one still brings
        self._paused = False
        self._early: dict[MessageKey, _Early] = {}
        self._closed_at: float | None = 0.0  # since when the intake is closed (monotonic); None: it is open
        self._asking_since: float | None = None  # monotonic: a message is asked for and none has come; None: not asked
        self._has_waited = False  # see events.Received
        self._is_connected = True  # the consumer is, as far as is known
        self._last_delivery: tuple[Entry, int] | None = None  # what the message that was taken last came with

    # --- the owner ---

    def allow(self, count: int, *, ask: bool = True) -> None:
        """Let so many more messages be taken, beyond those that the owner has seen.

        Args:
            count: how many.
            ask: False: only messages that wait here already may be taken. The broker is not asked for others.
        """
        with self._lock:
            self._allowed = self._seen + max(0, count)
            self._closed_at = None
            while self._early and self._taken < self._allowed:
                self._hand_over(self._early.pop(next(iter(self._early))).received)
            if not ask:
                self._allowed = self._taken
            if self._taken >= self._allowed or self._consumer is None or not self._is_connected:
                self._asking_since = None
            elif self._asking_since is None:
                self._asking_since = self._clock()
            if self._paused and self._taken < self._allowed and self._consumer is not None:
                self._paused = False
                self._consumer.resume_message_listener()

    def close(self) -> None:
        """Let no more messages be taken until `allow` is called."""
        with self._lock:
            self._allowed = self._seen
            if self._closed_at is None:
                self._closed_at = self._clock()

    def seen(self) -> None:
        """The owner has seen a message that was taken."""
        with self._lock:
            self._seen += 1

    def overdue(self, now: float) -> list[Received]:
        """Return the messages that have waited too long, and forget them: they are to be nak'd, because another node
        may be able to serve them.
        """
        with self._lock:
            due = [key for key, early in self._early.items() if self._give_back_at(early) <= now]
            return [self._early.pop(key).received for key in due]

    def hand_over(self, received: Received) -> None:
        """Let a message that `overdue` has returned be taken, although nothing may be taken now."""
        with self._lock:
            self._hand_over(received)

    def next_overdue(self) -> float:
        """Return the monotonic time at which `overdue` has something to return; infinity if nothing waits."""
        with self._lock:
            return min((self._give_back_at(early) for early in self._early.values()), default=float("inf"))

    def closed_since(self) -> float:
        """Return since when the intake is closed (monotonic); infinity if it is open."""
        with self._lock:
            return float("inf") if self._closed_at is None else self._closed_at

    def is_wanted(self) -> bool:
        """Return True if a message may be taken now."""
        with self._lock:
            return self._taken < self._allowed

    def waiting(self) -> list[MessageKey]:
        """Return the keys of the messages that wait here."""
        with self._lock:
            return list(self._early)

    def has_early_of_batch(self, entry: Entry) -> bool:
        """Return True if a message of this batch waits here."""
        with self._lock:
            return any(key[:3] == entry for key in self._early)

    def _give_back_at(self, early: _Early) -> float:
        if self._closed_at is not None:
            return max(early.came, self._closed_at) + GIVE_BACK
        is_batch = early.received.key[3] >= 0
        if is_batch and _delivery_of(early.received) == self._last_delivery:
            return float("inf")  # the rest of a batch cannot go back alone
        return early.came + WAIT_FOR_ROOM

    # --- the consumer ---

    def attach(self, subscribe: Callable[[Callable[[Any, Any], None]], Any]) -> Any:
        """Subscribe, and take messages from the new consumer.

        Args:
            subscribe: given a listener, returns a consumer that calls it with itself and each message.

        Returns: the consumer.
        """
        token = object()
        with self._lock:
            self._token, self._consumer, self._paused = token, None, False
            self._asking_since, self._has_waited, self._is_connected = None, False, True
        consumer = subscribe(lambda consumer, message: self._arrived(token, consumer, message))
        with self._lock:
            if self._token is token:
                self._consumer = consumer
                if self._paused and self._taken < self._allowed:
                    self._paused = False
                    consumer.resume_message_listener()
        return consumer

    def ask_more(self) -> None:
        """Ask another partition: the one that was asked has had nothing for a while."""
        with self._lock:
            if self._taken < self._allowed and self._consumer is not None:
                self._consumer.resume_message_listener()

    def disconnected(self) -> None:
        """The consumer has lost its connection: what comes next may have waited at the broker meanwhile."""
        with self._lock:
            self._asking_since, self._has_waited, self._is_connected = None, False, False

    def reconnected(self) -> None:
        """The library has connected anew by itself. It has then asked for a message, even if its listener is paused."""
        with self._lock:
            self._asking_since, self._has_waited, self._is_connected = None, False, True
            if self._consumer is not None:
                self._paused = False
                # A partitioned topic has several consumers. While one is asked, the others are paused.
                while self._consumer.resume_message_listener():
                    pass

    def detach(self) -> None:
        """Take nothing more from the consumer, and forget what waits here: the consumer is to be closed, and the broker
        redelivers what it has not acked.
        """
        with self._lock:
            self._token, self._consumer, self._paused = None, None, False
            self._asking_since = None
            self._early.clear()

    def detach_if_unused(self, seen: int | None = None) -> bool:
        """Detach if no message was taken that the owner has not seen.

        Args:
            seen: how many messages the owner had seen when it asked for this; None: as many as now.

        Returns: whether that was so.
        """
        with self._lock:
            if self._taken != (self._seen if seen is None else seen):
                return False
            self._token, self._consumer, self._paused = None, None, False
            self._asking_since = None
            self._early.clear()
            return True

    @property
    def count_seen(self) -> int:
        """How many messages the owner has seen since the start."""
        return self._seen

    def _arrived(self, token: object, consumer: Any, message: Any) -> None:
        """The library's thread brings a message. That of a closed consumer is dropped: the broker redelivers it."""
        now, wall, since = self._clock(), self._wall(), self._asking_since
        asked_for = 0.0 if since is None else now - since
        self._has_waited = self._has_waited or asked_for >= ASKED_FOR
        received = received_of(message, now, wall, asked_for, self._has_waited)
        with self._lock:
            if self._token is not token:
                return
            self._asking_since = None
            if self._taken < self._allowed:
                self._hand_over(received)
            else:
                self._early[received.key] = _Early(self._clock(), received)
            # The messages of a batch were handed out together: all of them are to be seen, none left in the library.
            if self._taken >= self._allowed and is_last_of_entry(message):
                self._paused = True
                consumer.pause_message_listener()

    def _hand_over(self, received: Received) -> None:
        self._taken += 1
        self._last_delivery = _delivery_of(received)
        self._take(received)


def _delivery_of(received: Received) -> tuple[Entry, int]:
    """What the messages of a batch have in common that were delivered together."""
    return received.key[:3], received.redeliveries


def received_of(message: Any, now: float, wall: float, asked_for: float = 0.0, has_waited: bool = False) -> Received:
    """Return the event that reports this message of the library's."""
    place = message.message_id()
    return Received(
        message=message,
        key=(place.ledger_id(), place.entry_id(), place.partition(), place.batch_index()),
        payload=message.data(),
        published=message.publish_timestamp() / 1000,
        received=wall,
        received_at=now,
        redeliveries=message.redelivery_count(),
        is_chunked=place.batch_index() < 0 and FIRST_CHUNK in dict(fields(place.serialize())),
        publisher=message.producer_name(),
        asked_for=asked_for,
        has_waited=has_waited,
        stamped=message.publish_timestamp() / 1000,
    )


def is_last_of_entry(message: Any) -> bool:
    """Return True if no further message of its batch follows; only the whole id holds a batch's size."""
    place = message.message_id()
    if place.batch_index() < 0:
        return True
    whole = dict(fields(place.serialize()))
    size = whole.get(BATCH_SIZE)
    return not isinstance(size, int) or place.batch_index() >= size - 1
