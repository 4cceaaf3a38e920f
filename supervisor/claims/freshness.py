"""Which messages are new, beyond doubt: no other node can have had them before. Pure.

The broker's redelivery count does not show it: it is 0 after a node was killed (seen on 4.0.8). Two things do. One is
the order: the broker hands the messages of a partition out in their order. So a message that stands behind one that was
new here a moment ago was handed out to nobody before that moment. The other is the age, once the difference between the
publisher's clock and this node's is known; a node that gets little to do needs it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from supervisor.events import ASKED_FOR, Received

# No frame leaves a node sooner than this after it has received the task (spec 1.2). So a message that is younger when
# it comes cannot have had its stream begun by another node.
FRAME_AFTER = 0.1  # seconds
# Seconds after a new message in which those behind it are new, too. Another node that had one of them, and is gone, had
# it for twice as long at most: it may have had the first of the two as well.
RECENT = FRAME_AFTER / 2
AGREE = 0.05  # seconds by which the ages of two such messages may differ
MOST_PUBLISHERS = 1000
# A message that comes after the node has asked for one in vain has not waited at the broker, if the node has asked for
# longer than the broker takes to hand one out. Nobody measures that; a claim takes about as long to be stored.
TIMES = 2  # so many times as long as the slowest of the last claims
LAST_CLAIMS = 10
# Seconds. In a row of messages each is either new for its place, or comes after the node has asked for so long.
LEAST_ASKED = RECENT
NONE_YET = (-1, -1, -1)


@dataclass(slots=True)
class _Partition:
    place: tuple[int, int, int] = NONE_YET  # ledger, entry, batch index of the last message that was new
    highest: tuple[int, int, int] = NONE_YET  # the place of the hindmost message that has come, new or not
    # Messages up to this place may be handed out again: one has come after others that stand behind it.
    again_up_to: tuple[int, int, int] = NONE_YET
    new_at: float = float("-inf")  # monotonic: when it came
    came_at: float = float("-inf")  # monotonic: when the last message came, new or not
    # Monotonic: when the claims had first shown that a message was new, since messages come without a pause.
    checked_at: float = float("inf")


@dataclass(slots=True)
class _Publisher:
    latest: float  # seconds since the epoch, by its clock: when the latest message that was seen was published
    least_age: float | None = None  # seconds, by two clocks: the least age of a message that was new; None: not known
    last_age: float | None = None  # that of the last message that was new and has not waited at the broker


class Freshness:
    """What is known of the order of the messages, and of the publishers' clocks."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}
        self._publishers: OrderedDict[str, _Publisher] = OrderedDict()
        self._took: deque[float] = deque(maxlen=LAST_CLAIMS)  # seconds that the broker took to store a claim

    def stored_within(self, seconds: float) -> None:
        """The broker took so long to store a claim."""
        self._took.append(seconds)

    def is_new(self, received: Received) -> bool:
        """Return True if no other node can have begun an answer to the message."""
        partition = self._partitions.setdefault(received.key[2], _Partition())
        if received.received_at > partition.came_at + RECENT:
            partition.checked_at = float("inf")
        partition.came_at = received.received_at
        if _place(received) > partition.highest:
            partition.highest = _place(received)
        elif not received.redeliveries:  # a nak that is counted brings one message alone
            partition.again_up_to, partition.checked_at = partition.highest, float("inf")
        is_young = self._is_young(received)  # asked in any case: it also learns from the message
        if received.redeliveries or not _is_behind(partition, received):
            return is_young  # which shows nothing of those behind it: it may have been handed out FRAME_AFTER before
        _note(partition, received)
        return True

    def was_new(self, now: float, received: Received) -> None:
        """The claims have shown that no other node had the message.

        If it has not waited at the broker either, its age is the difference of the two clocks; or this node, or the
        network, stood still. So it takes two such messages, one after the other, that agree; the lesser age counts.
        After a clock was set, this brings a least age up to date that is too low. For the same reason those behind it
        are new only if it came after another one was known to be new, and without a pause between them; and not while
        the broker hands messages out again, as it does after its restart, or after the topic's owner has died.

        Args:
            now: monotonic.
        """
        if received.redeliveries:
            return
        partition = self._partitions.setdefault(received.key[2], _Partition())
        if received.has_waited and _place(received) > partition.again_up_to:
            if received.received_at >= partition.checked_at:
                _note(partition, received)
            partition.checked_at = min(partition.checked_at, now)
        known = self._publishers.get(received.publisher)
        if known is not None and received.asked_for >= self._asked_enough():
            age = received.received_at - received.stamped
            if known.last_age is not None and abs(known.last_age - age) <= AGREE:
                known.least_age = min(known.last_age, age)
            known.last_age = age

    def _asked_enough(self) -> float:
        """Return for how many seconds the node must have asked for a message, so that it has not waited before."""
        least = LEAST_ASKED if len(self._took) == LAST_CLAIMS else ASKED_FOR
        return max(least, TIMES * max(self._took, default=0.0))

    def _is_young(self, received: Received) -> bool:
        """Return True if the message is as young as the youngest of its publisher, and is in the order of its messages:
        one that was published before another that is here already was handed out before, to somebody.
        """
        known = self._publishers.get(received.publisher)
        if known is None:
            if len(self._publishers) >= MOST_PUBLISHERS:
                self._publishers.popitem(last=False)
            self._publishers[received.publisher] = _Publisher(received.stamped)
            return False
        is_in_order = received.stamped >= known.latest
        known.latest = max(known.latest, received.stamped)
        if received.redeliveries or not is_in_order or known.least_age is None:
            return False
        age = received.received_at - received.stamped
        known.least_age = min(known.least_age, age)
        return age <= known.least_age + FRAME_AFTER


def _place(received: Received) -> tuple[int, int, int]:
    ledger, entry, _, index = received.key
    return ledger, entry, index


def _is_behind(partition: _Partition, received: Received) -> bool:
    """Return True if the message stands behind one that was new here a moment ago."""
    return _place(received) > partition.place and received.received_at <= partition.new_at + RECENT


def _note(partition: _Partition, received: Received) -> None:
    """The message is new."""
    if _place(received) > partition.place:
        partition.place, partition.new_at = _place(received), received.received_at
