"""What this node publishes about its claims: collected for some milliseconds, sent again until it is stored. Pure.

One message is on its way at a time, and what comes after it waits. So the messages of a node stand in the topic in the
order in which it did what they report, whatever fails between: a claim that was given back and taken again is not given
back by a message that was sent a second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.claims.table import ClaimMessage, encode

FOREVER = float("inf")
FLUSH_INTERVAL = 0.01  # seconds between two messages
ASKED_INTERVAL = 0.003  # seconds, if a stream waits for it
RETRY = 0.5  # seconds before what could not be stored is sent again
REMEMBERED = 2000  # messages of which it is remembered when they were sent
MOST_CHARACTERS = 200_000  # of the request ids in a message; a broker takes 5 MB
# In this order a reader applies the lists of one message (ClaimTable.apply).
APPLIED = ("taken", "begun", "ended", "unended", "released", "withdrawn", "recorded")
LEAVING = APPLIED[APPLIED.index("unended") :]  # the task is at this node no more


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """A worker waits until this is stored."""

    number: int  # of the delivery
    request_id: str
    is_end: bool  # False: the first frame of a stream is to leave; True: its end


@dataclass(slots=True)
class Sent:
    """A message that is not stored yet."""

    message: ClaimMessage
    requests: list[Request] = field(default_factory=list)
    is_marked: bool = False  # somebody waits until it is read back
    first_at: float = 0.0  # monotonic: when it was sent, the first time; 0: it was not sent yet
    at: float = 0.0  # monotonic: when it was sent, the last time


class ClaimOutbox:
    """Collects, sends, and sends again.

    Args:
        node: the name of this node.
        publish: sends a message with a number of its own; `stored` follows.
    """

    def __init__(self, node: str, publish: Callable[[int, bytes], None]) -> None:
        self._node = node
        self._publish = publish
        self._serial = 1
        self._next = Sent(ClaimMessage(node, serial=1))
        self._is_empty = True
        self._places: dict[str, int] = {}  # request id → the last of the lists in `_next` that it is in
        self._characters = 0
        self._waiting: deque[Sent] = deque()  # before `_next`, the oldest first; that may be on its way
        self._on_its_way = 0  # the number of the message that was sent; 0: none is
        self._number = 0
        self._first_sent: dict[int, float] = {}  # mark → monotonic time at which its message was first sent
        self._last_flush = 0.0  # monotonic
        self._not_before = 0.0  # monotonic

    def taken(self, request_id: str) -> None:
        """The node works on the task."""
        for given_back in (self._next.message.released, self._next.message.withdrawn):
            if request_id in given_back:  # taken again at once: it was never given back
                given_back.remove(request_id)
                self._places.pop(request_id, None)
        self.add("taken", request_id)

    def again(self, request_id: str, is_begun: bool, is_ended: bool = False) -> None:
        """The node works on the task, which others may not know any more.

        Args:
            is_ended: the end of its stream was announced.
        """
        self.add("taken", request_id)
        if is_begun:
            self.add("begun", request_id)
        if is_ended:
            self.add("ended", request_id)

    def ask(self, request: Request) -> None:
        """A stream is to begin, or to end."""
        self.add("ended" if request.is_end else "begun", request.request_id)
        self._next.requests.append(request)

    def recorded(self, request_id: str) -> None:
        """The task is answered, and its record is stored."""
        self.add("recorded", request_id)

    def released(self, request_id: str) -> None:
        """The task goes back to the broker."""
        self.add("released", request_id)

    def unended(self, request_id: str) -> None:
        """The task goes back to the broker. The end of its stream was announced, and has not left."""
        self.add("unended", request_id)

    def withdrawn(self, request_id: str) -> None:
        """The task goes back to the broker, and nothing of an answer has left."""
        self.add("withdrawn", request_id)

    def suspect(self, node: str) -> None:
        """Another node may be gone. A takeover that waits to be sent must not be valid by this suspicion: readers apply
        the suspicions of a message first.
        """
        if self._next.message.takes:
            self._close()
        self._next.message.suspects.append(node)
        self._is_empty = False

    def take_over(self, request_id: str, holder: str) -> None:
        """Take a task over from another node."""
        self._next.message.takes.append((request_id, holder))
        self._is_empty = False

    def next_mark(self) -> int:
        """Return the serial of the next message; all that is published before it is known once it was read back."""
        self._next.is_marked, self._is_empty = True, False
        return self._next.message.serial

    def sent_at(self, mark: int) -> float:
        """Return the monotonic time at which the message with this mark was sent, the first time: it may have been
        stored although it was reported as failed.
        """
        return self._first_sent.get(mark, 0.0)

    def flush(self, now: float, sign: float) -> None:
        """Send what is due.

        Args:
            now: monotonic.
            sign: seconds after the last message for which a sign of life is due; infinity: none.
        """
        if now < self.next_flush(sign):
            return
        if not self._waiting:
            self._close()
        sent = self._waiting[0]
        sent.at = self._last_flush = now
        sent.first_at = sent.first_at or now
        self._number += 1
        self._on_its_way = self._number
        if sent.is_marked:
            self._remember(sent)
        self._publish(self._number, encode(sent.message))

    def next_flush(self, sign: float) -> float:
        """Return the monotonic time at which `flush` has something to send. The argument is that of `flush`."""
        if self._on_its_way:
            return FOREVER
        if self._waiting or not self._is_empty:
            is_asked = (self._waiting[0] if self._waiting else self._next).requests
            due = self._last_flush + (ASKED_INTERVAL if is_asked else FLUSH_INTERVAL)
        else:
            due = self._last_flush + sign
        return max(due, self._not_before)

    def stored(self, now: float, number: int, fault: str) -> Sent | None:
        """A message is stored, or is to be sent again.

        Returns:
            The message if it is stored; None if not.
        """
        if number != self._on_its_way:
            return None
        self._on_its_way = 0
        if fault:
            self._not_before = now + RETRY
            return None
        return self._waiting.popleft()

    def read_back(self, serial: int) -> Sent | None:
        """An own message was read: it is stored, whatever was reported of it, and whether or not a receipt comes.

        Returns:
            The message if that was not known yet; `at` is when it was sent the first time.
        """
        if not self._waiting or self._waiting[0].message.serial != serial or not self._waiting[0].first_at:
            return None
        self._on_its_way, self._not_before = 0, 0.0
        sent = self._waiting.popleft()
        sent.at = sent.first_at  # if it was sent again, it is not known which of them was read
        return sent

    def clear(self) -> tuple[list[Request], dict[str, str]]:
        """Forget everything.

        Returns:
            The requests that wait; and of the tasks that have left this node: request id → the list that it was in.
        """
        self._close()
        requests = [request for sent in self._waiting for request in sent.requests]
        left = {
            request_id: what
            for sent in self._waiting
            for what in LEAVING
            for request_id in getattr(sent.message, what)
        }
        self._waiting.clear()
        self._on_its_way = 0
        return requests, left

    def add(self, what: str, request_id: str) -> None:
        """Put a task into one of the lists of the next message, or of a new one if that would change the order.

        Args:
            what: one of APPLIED.
        """
        place, last = APPLIED.index(what), self._places.get(request_id, 0)
        is_too_late = place < last and (what, APPLIED[last]) != ("begun", "ended")  # this order shows in no table
        if what in LEAVING and any(request_id == taken for taken, _ in self._next.message.takes):
            is_too_late = True  # readers apply takeovers later
        if is_too_late or self._characters > MOST_CHARACTERS:
            self._close()
            last = 0
        self._places[request_id] = max(place, last)
        self._characters += len(request_id)
        getattr(self._next.message, what).append(request_id)
        self._is_empty = False

    def _remember(self, sent: Sent) -> None:
        self._first_sent[sent.message.serial] = sent.first_at
        if len(self._first_sent) > REMEMBERED:
            del self._first_sent[next(iter(self._first_sent))]

    def _close(self) -> None:
        """What follows goes into another message."""
        self._waiting.append(self._next)
        self._serial += 1
        self._next, self._is_empty = Sent(ClaimMessage(self._node, serial=self._serial)), True
        self._places, self._characters = {}, 0
