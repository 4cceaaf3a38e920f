"""Holds naks until they are due, and decides which may be sent to the broker. Pure: the clock is passed in.

Two facts decide how it works (docs/decisions/0003-broker.md). The delay of pulsar-client 3.13 starts again with every
nak, so due naks are sent together. And the broker redelivers a batch as a whole, to any node, so a nak of one of its
messages waits until no other message of that batch is at this node.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from dataclasses import dataclass, field

from supervisor.broker.contract import Batches
from supervisor.events import Entry, MessageKey, Received

SEND_INTERVAL = 0.25  # seconds between two sends: longer than the shortest delay of the library, which is 0.1 s
# The library hands over the messages of a batch one right after another. If none came for so long, there is no more.
BATCH_PAUSE = 0.25  # seconds


@dataclass(slots=True)
class DueNaks:
    """What is to be done with the naks that were due."""

    redeliver: list[Received] = field(default_factory=list)  # nak them at the broker
    retry_here: list[Received] = field(default_factory=list)  # keep them, and try them again at this node


@dataclass(frozen=True, slots=True)
class _Held:
    number: int  # distinguishes a nak from an earlier one of the same message
    due: float
    received: Received


class Naks:
    """The naks of this node that are not sent yet. For one thread.

    Adding, discarding and sending a nak cost O(log n) each.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._held: dict[MessageKey, _Held] = {}
        self._queue: list[tuple[float, int, MessageKey]] = []  # a heap; may hold naks that were discarded
        self._by_entry: defaultdict[Entry, set[MessageKey]] = defaultdict(set)  # of batches only
        self._newest: dict[int, tuple[Entry, float]] = {}  # by partition: the last entry that came, and when
        self._last_sent = float("-inf")

    def __len__(self) -> int:
        return len(self._held)

    @property
    def has_batches(self) -> bool:
        """True if a message of a batch is held."""
        return bool(self._by_entry)

    def add(self, received: Received, due: float) -> None:
        """Hold a nak. One that is held for the same message already is replaced.

        Args:
            received: the message.
            due: monotonic time before which the broker must not hand the message out again.
        """
        self.discard(received.key)
        held = _Held(next(self._numbers), due, received)
        self._held[received.key] = held
        heapq.heappush(self._queue, (due, held.number, received.key))
        if _in_batch(received.key):
            self._by_entry[received.key[:3]].add(received.key)

    def discard(self, key: MessageKey) -> None:
        """Forget the nak of a message, if there is one."""
        if self._held.pop(key, None) is None or not _in_batch(key):
            return
        keys = self._by_entry[key[:3]]
        keys.discard(key)
        if not keys:
            del self._by_entry[key[:3]]

    def arrived(self, received: Received, now: float) -> None:
        """Note that the broker has delivered this message.

        If a nak of it was held, it is dropped: the broker has redelivered the message by itself, after a lost
        connection. A nak now would have it run at two nodes.
        """
        self.discard(received.key)
        self._newest[received.key[2]] = (received.key[:3], now)

    def next_at(self) -> float:
        """Return the monotonic time at which `take_due` has something to do; infinity if nothing is held."""
        self._drop_discarded()
        return max(self._queue[0][0], self._last_sent + SEND_INTERVAL) if self._queue else float("inf")

    def take_due(self, now: float, batches: Batches, *, everything: bool = False) -> DueNaks:
        """Take out the naks that are due and may be sent.

        Args:
            now: monotonic.
            batches: which other messages of a batch are at this node, or were answered here.
            everything: send all of them, due or not, in part of a batch or not: the node stops.
        """
        result = DueNaks()
        if not everything and now < self.next_at():
            return result
        self._last_sent = now
        due = self._take_due(float("inf") if everything else now)
        waiting = []
        for held in due:
            if not everything and self._must_wait(held.received.key, now, batches):
                waiting.append(held)
            elif not everything and _cannot_go_back(held.received, batches):
                result.retry_here.append(held.received)
            else:
                result.redeliver.append(held.received)
        for held in due:
            self.discard(held.received.key)
        for held in waiting:
            self.add(held.received, held.due)
        return result

    def _take_due(self, now: float) -> list[_Held]:
        """Take from the queue what is due, oldest first; it stays in `_held`."""
        due = []
        while self._queue and self._queue[0][0] <= now:
            _, number, key = heapq.heappop(self._queue)
            held = self._held.get(key)
            if held is not None and held.number == number:
                due.append(held)
        return due

    def _drop_discarded(self) -> None:
        while self._queue:
            _, number, key = self._queue[0]
            held = self._held.get(key)
            if held is not None and held.number == number:
                return
            heapq.heappop(self._queue)

    def _must_wait(self, key: MessageKey, now: float, batches: Batches) -> bool:
        """True while another message of its batch is at this node, is still to come, or has a nak that is not due."""
        if not _in_batch(key):
            return False
        entry, came = self._newest.get(key[2], (None, 0.0))
        if entry == key[:3] and now < came + BATCH_PAUSE:
            return True
        return batches.has_others_of_batch(key) or any(self._held[other].due > now for other in self._by_entry[key[:3]])


def _cannot_go_back(received: Received, batches: Batches) -> bool:
    """True if what was answered would come again with it, or if it came in chunks: a nak of such a message is lost in
    pulsar-client 3.13, and the message with it until the consumer is closed.
    """
    return received.is_chunked or (_in_batch(received.key) and batches.has_answered_of_batch(received.key))


def _in_batch(key: MessageKey) -> bool:
    return key[3] >= 0
