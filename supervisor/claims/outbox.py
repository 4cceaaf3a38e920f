"""What this node publishes about its claims: collected for some milliseconds, sent again until it is stored. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.claims.table import ClaimMessage, encode

FOREVER = float("inf")
FLUSH_INTERVAL = 0.01  # seconds between two messages
ASKED_INTERVAL = 0.003  # seconds, if a stream waits for it
RETRY = 0.5  # seconds before what could not be stored is sent again
REMEMBERED_MARKS = 2000


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """A worker waits until this is stored."""

    number: int  # of the delivery
    request_id: str
    is_end: bool  # False: the first frame of a stream is to leave; True: its end


@dataclass(slots=True)
class Sent:
    """A message on its way to the broker."""

    at: float  # monotonic
    message: ClaimMessage
    requests: list[Request] = field(default_factory=list)


class ClaimOutbox:
    """Collects, sends, and sends again.

    Args:
        node: the name of this node.
        publish: sends a message with a number of its own; `stored` follows.
    """

    def __init__(self, node: str, publish: Callable[[int, bytes], None]) -> None:
        self._node = node
        self._publish = publish
        self._next = ClaimMessage(node)
        self._is_empty = True
        self._requests: list[Request] = []
        self._sent: dict[int, Sent] = {}
        self._number = 0
        self._mark = 0
        self._marks_sent: dict[int, float] = {}  # mark → monotonic time at which its message was sent
        self._last_flush = 0.0  # monotonic
        self._not_before = 0.0  # monotonic

    def taken(self, request_id: str) -> None:
        """The node works on the task."""
        for given_back in (self._next.released, self._next.withdrawn):
            if request_id in given_back:  # taken again at once: it was never given back
                given_back.remove(request_id)
        self._next.taken.append(request_id)
        self._is_empty = False

    def again(self, request_id: str, is_begun: bool) -> None:
        """The node works on the task, which others may not know any more."""
        self._next.taken.append(request_id)
        if is_begun:
            self._next.begun.append(request_id)
        self._is_empty = False

    def ask(self, request: Request) -> None:
        """A stream is to begin, or to end."""
        (self._next.ended if request.is_end else self._next.begun).append(request.request_id)
        self._requests.append(request)
        self._is_empty = False

    def ended(self, request_id: str) -> None:
        """The task is answered."""
        self._next.ended.append(request_id)
        self._is_empty = False

    def released(self, request_id: str) -> None:
        """The task goes back to the broker."""
        self._next.released.append(request_id)
        self._is_empty = False

    def unended(self, request_id: str) -> None:
        """The task goes back to the broker. The end of its stream was announced, and has not left."""
        self._next.unended.append(request_id)
        self._is_empty = False

    def withdrawn(self, request_id: str) -> None:
        """The task goes back to the broker, and nothing of an answer has left."""
        self._next.withdrawn.append(request_id)
        self._is_empty = False

    def suspect(self, node: str) -> None:
        """Another node may be gone."""
        self._next.suspects.append(node)
        self._is_empty = False

    def take_over(self, request_id: str, holder: str) -> None:
        """Take a task over from another node."""
        self._next.takes.append((request_id, holder))
        self._is_empty = False

    def next_mark(self) -> int:
        """Return the mark of the next message; all that is published before it is known once it was read back."""
        if not self._next.mark:
            self._mark += 1
            self._next.mark = self._mark
        self._is_empty = False
        return self._next.mark

    def sent_at(self, mark: int) -> float:
        """Return the monotonic time at which the message with this mark was sent."""
        return self._marks_sent.get(mark, 0.0)

    def flush(self, now: float, sign: float) -> None:
        """Send what is due.

        Args:
            now: monotonic.
            sign: seconds after the last message for which a sign of life is due; infinity: none.
        """
        if now < self.next_flush(sign):
            return
        message, requests = self._next, self._requests
        self._next, self._requests, self._is_empty = ClaimMessage(self._node), [], True
        self._last_flush = now
        self._number += 1
        self._sent[self._number] = Sent(now, message, requests)
        if message.mark:
            self._marks_sent[message.mark] = now
            self._marks_sent.pop(message.mark - REMEMBERED_MARKS, None)
        self._publish(self._number, encode(message))

    def next_flush(self, sign: float) -> float:
        """Return the monotonic time at which `flush` has something to send. The argument is that of `flush`."""
        if self._is_empty:
            due = self._last_flush + sign
        else:
            due = self._last_flush + (ASKED_INTERVAL if self._requests else FLUSH_INTERVAL)
        return max(due, self._not_before)

    def stored(self, now: float, number: int, fault: str) -> Sent | None:
        """A message is stored, or is to be sent again.

        Returns:
            The message if it is stored; None if not.
        """
        sent = self._sent.pop(number, None)
        if sent is None or not fault:
            return sent
        self._not_before = now + RETRY
        old, new = sent.message, self._next
        later = [each.message for later, each in self._sent.items() if later > number]
        taken_again = {each for message in (*later, new) for each in message.taken}
        ended_again = {each for message in (*later, new) for each in message.ended}
        unended = {each for message in later for each in message.unended}
        withdrawn = {each for message in later for each in message.withdrawn}
        given_back = {each for message in later for each in message.released} | withdrawn | unended
        if old.mark or new.mark:  # each message has a mark of its own: the one that failed may be stored all the same
            self._mark += 1
        self._next = ClaimMessage(
            self._node, [each for each in old.taken if each not in given_back] + new.taken,
            [each for each in old.begun if each not in withdrawn] + new.begun,
            [each for each in old.ended if each not in unended] + new.ended,
            [each for each in old.released if each not in taken_again] + new.released,
            [each for each in old.withdrawn if each not in taken_again] + new.withdrawn,
            old.suspects + new.suspects, old.takes + new.takes, self._mark if old.mark or new.mark else 0,
            [each for each in old.unended if each not in ended_again] + new.unended,
        )  # fmt: skip
        self._requests = sent.requests + self._requests
        self._is_empty = False
        return None

    def clear(self) -> list[Request]:
        """Forget everything; return the requests that wait."""
        requests = [request for sent in self._sent.values() for request in sent.requests] + self._requests
        self._sent.clear()
        self._next, self._requests, self._is_empty = ClaimMessage(self._node), [], True
        return requests
