"""How old a message is, although publisher and node measure time by two clocks that may differ. Pure: no clock is read.

A message that comes after the node has asked for one in vain for a while was published at this moment. So its age, as
the two clocks show it, is the difference between them, and is taken off. But a network that stands still looks alike:
the message may then be as old as the node has asked. An age that this can explain counts only when a second one agrees.

This node's own clock may jump; that is seen against the monotonic clock, by which ages are measured.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from dataclasses import replace

from supervisor.events import Received

log = logging.getLogger(__name__)

NOTICED = 5.0  # seconds; a smaller difference is not taken off
IN_VAIN = 1.0  # seconds that the node has asked for a message without getting one: none has waited at the broker
# The smallest of the last so many ages counts: a message that a dead node had held is old, and no sign of a clock.
LAST = 3
MOST_PUBLISHERS = 1000


class PublisherClocks:
    """The clocks of the publishers, compared with this node's. For one thread.

    Args:
        now: monotonic.
        wall: seconds since the epoch, at the same moment.
        asleep: seconds that the machine was asleep until then, in which the monotonic clock stands still.
    """

    def __init__(self, now: float, wall: float, asleep: float = 0.0) -> None:
        self._base = wall - now - asleep
        self._jump = 0.0  # seconds by which this node's clock has jumped since the start
        # By publisher: the ages of messages that were published just then, and whether each is beyond doubt.
        self._ages: OrderedDict[str, deque[tuple[float, bool]]] = OrderedDict()
        self._logged: dict[str, float] = {}  # the difference of each publisher that has one
        self.largest = 0.0  # seconds: the difference in use that is the largest; positive: the publisher is behind

    def corrected(self, received: Received, asleep: float = 0.0) -> Received:
        """Return the message with `published` by this node's clock: `received - published` is its age.

        One that was corrected before, and is tried again here, stays as it is.

        Args:
            asleep: seconds that the machine was asleep until now.
        """
        if received.is_corrected:
            return received
        steady = received.received_at + self._base + asleep
        self._note_jump(received.received - steady)
        age = steady - received.published
        difference = self._difference(received, age)
        if not difference and not self._jump:
            return received
        published = received.received - max(0.0, age - difference)
        return replace(received, published=published, is_corrected=True, age_by_stamp=age)

    def _difference(self, received: Received, age: float) -> float:
        """Return how far the publisher's clock is behind; 0 if that is not noticed or not known."""
        ages = self._ages.get(received.publisher)
        is_new = received.redeliveries == 0 and received.asked_for >= IN_VAIN
        if is_new or age <= -NOTICED:
            if ages is None:
                ages = self._ages[received.publisher] = deque(maxlen=LAST)
                if len(self._ages) > MOST_PUBLISHERS:
                    self._forget(next(iter(self._ages)))
            ages.append((age, age < NOTICED or age > received.asked_for + NOTICED))
        if not ages:
            return 0.0
        smallest, is_sure = min(ages)
        agreeing = sum(abs(each - smallest) < NOTICED for each, _ in ages)
        difference = smallest if abs(smallest) >= NOTICED and (is_sure or agreeing > 1) else 0.0
        self._note(received.publisher, difference)
        return difference

    def _note(self, publisher: str, difference: float) -> None:
        before = self._logged.get(publisher, 0.0)
        if difference == before or (difference and abs(difference - before) < NOTICED):
            return
        about = {"event": "clock_difference", "publisher": publisher, "seconds": round(difference, 1)}
        if difference:
            self._logged[publisher] = difference
            where = "behind" if difference > 0 else "ahead of"
            text = "the clock of publisher %s is %.0f s %s this machine's clock; it is taken off the age of its tasks"
            log.warning(text, publisher, abs(difference), where, extra=about)
        else:
            self._logged.pop(publisher, None)
            log.warning("the clock of publisher %s agrees with this machine's clock again", publisher, extra=about)
        self.largest = max(self._logged.values(), key=abs, default=0.0)

    def _forget(self, publisher: str) -> None:
        del self._ages[publisher]
        self._logged.pop(publisher, None)

    def _note_jump(self, jump: float) -> None:
        if abs(jump - self._jump) < NOTICED:
            return
        about = {"event": "clock_jumped", "seconds": round(jump - self._jump, 1)}
        text = "this machine's clock has jumped by %.0f s; the age of tasks is measured without it"
        log.warning(text, jump - self._jump, extra=about)
        self._jump = jump
