"""Which messages are new, beyond doubt: no other node can have had them before. Pure.

The broker's redelivery count does not show it: it is 0 after a node was killed (seen on 4.0.8). Order and age do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from supervisor.events import Received

# No frame leaves a node sooner than this after it has received the task (spec 1.2). So a message that is younger when
# it comes cannot have had its stream begun by another node.
FRAME_AFTER = 0.1  # seconds
# Seconds for which a node has asked for a message and got none: the next one has not waited at the broker.
ASKED_FOR = 0.1
AGREE = 0.05  # seconds by which the ages of two such messages may differ
MOST_PUBLISHERS = 1000


@dataclass(slots=True)
class _Publisher:
    latest: float  # seconds since the epoch, by its clock: when the latest message that was seen was published
    least_age: float | None = None  # seconds, by two clocks: the least age of a message that was new; None: not known
    last_age: float | None = None  # that of the last message that was new and has not waited at the broker


class Freshness:
    """What is known of the publishers' clocks."""

    def __init__(self) -> None:
        self._publishers: OrderedDict[str, _Publisher] = OrderedDict()

    def is_new(self, received: Received) -> bool:
        """Return True if no other node can have begun an answer to the message.

        Messages are handed out in the order in which they were published. So one that was published before another
        that is here already was handed out before, to somebody.
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

    def was_new(self, received: Received) -> None:
        """The claims have shown that no other node had the message.

        If it has not waited at the broker either, its age is the difference of the two clocks; or this node, or the
        network, stood still. So it takes two such messages, one after the other, that agree; the lesser age counts.
        After a clock was set, this brings a least age up to date that is too low.
        """
        known = self._publishers.get(received.publisher)
        if known is not None and not received.redeliveries and received.asked_for >= ASKED_FOR:
            age = received.received_at - received.stamped
            if known.last_age is not None and abs(known.last_age - age) <= AGREE:
                known.least_age = min(known.last_age, age)
            known.last_age = age
