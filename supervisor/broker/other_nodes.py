"""Whether other nodes serve what this one sends back. Pure: the clock is passed in.

The broker redelivers in the order of the topic, and before anything new. So a message that was sent back, and does not
come although a later one does, has gone to another node. A node that serves keeps it. One that cannot serve sends it
back as well: then messages come here with more redeliveries than this node has caused. And of a backlog that several
nodes take from, each gets only a part: the entries between two new messages that came here went to other nodes.
"""

from __future__ import annotations

from supervisor.events import MessageKey, Received

# The broker hands a message out again within so long after its nak.
REDELIVERED_WITHIN = 1.0  # seconds
# What was seen holds for so long.
SEEN_FOR = 15.0  # seconds
MOST_REMEMBERED = 1000  # messages


class OtherNodes:
    """What is seen of the other nodes of the topic. For one thread."""

    def __init__(self) -> None:
        self._sent_back: dict[MessageKey, float] = {}  # when, the oldest first; what has not come again
        self._times: dict[MessageKey, int] = {}  # how often each message was sent back here
        self._newest: dict[int, tuple[int, int]] = {}  # by partition: ledger and entry of the newest that was here
        self._kept_at = self._sent_back_at = float("-inf")  # monotonic: when other nodes last got, or sent back, one

    def sent_back(self, key: MessageKey, now: float) -> None:
        """A nak was given to the client library."""
        self._sent_back.pop(key, None)
        self._sent_back[key] = now
        self._note_newest(key)  # one that had waited at the intake has not `arrived`
        self._times[key] = self._times.pop(key, 0) + 1
        if len(self._sent_back) > MOST_REMEMBERED:
            del self._sent_back[next(iter(self._sent_back))]
        if len(self._times) > MOST_REMEMBERED:
            del self._times[next(iter(self._times))]

    def arrived(self, received: Received, now: float) -> None:
        """The broker has delivered a message."""
        key = received.key
        self._sent_back.pop(key, None)
        if received.redeliveries > self._times.get(key, 0):
            self._sent_back_at = now
        if received.is_chunked:  # which of its entries the key names is not known
            self._newest.pop(key[2], None)
        else:
            if received.redeliveries == 0 and self._is_behind_gap(key):
                self._kept_at = now
            self._note_newest(key)
        kept = []
        for other, at in self._sent_back.items():
            if now - at <= REDELIVERED_WITHIN:
                break
            if other[2] == key[2] and other[:2] < key[:2]:
                kept.append(other)
        for other in kept:
            del self._sent_back[other]
            self._kept_at = now

    def serve(self, now: float) -> bool:
        """Return whether other nodes have kept or got messages lately, and have sent none back."""
        return now - self._kept_at < SEEN_FOR and now - self._sent_back_at >= SEEN_FOR

    def _is_behind_gap(self, key: MessageKey) -> bool:
        """Return whether entries between the newest that was here and this one went elsewhere."""
        ledger, entry = self._newest.get(key[2], (-1, -1))
        return key[0] == ledger and key[1] > entry + 1

    def _note_newest(self, key: MessageKey) -> None:
        self._newest[key[2]] = max(self._newest.get(key[2], (-1, -1)), key[:2])
