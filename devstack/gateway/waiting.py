"""The waiting clients: the table of request ids, and the channel from the node's connection to the client's.

It has the traps of the platform's gateway (spec 1.2): a channel has no buffer, so that a text for a client that has
just left blocks for ever, and with it the reader of the node's connection.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from queue import Empty, SimpleQueue

# Ended ids that are remembered, to distinguish a repeated answer from an answer to an unknown id.
REMEMBERED = 50_000
# Seconds between two checks of a blocked sender whether its own connection is still open.
CHECK_S = 1.0


class SenderLeft(Exception):
    """The node closed its connection while its text was still waiting for the client."""


class Channel:
    """From one sender to one client's thread. `send` returns once the client's thread has taken the text."""

    def __init__(self) -> None:
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._taken = threading.Semaphore(0)
        self.closed = False

    def send(self, text: str, sender_left: Callable[[], bool]) -> None:
        """Hand the text over. Blocks until the client's thread takes it.

        Raises:
            SenderLeft: nobody took it, and `sender_left` returned true.
        """
        self._texts.put(text)
        while not self._taken.acquire(timeout=CHECK_S):
            if sender_left():
                raise SenderLeft

    def close(self) -> None:
        """Send no more: `receive` returns None after the last text. Never waits."""
        self.closed = True
        self._texts.put(None)

    def receive(self, timeout: float) -> str | None:
        """Return the next text; None when the channel is closed.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
        """
        try:
            text = self._texts.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None
        if text is not None:
            self._taken.release()
        return text


class Waiting:
    """The ids of one kind of request (plain or stream) and what happened to them, counted."""

    def __init__(self, *counted: str) -> None:
        self._lock = threading.Lock()
        self._published: set[str] = set()  # published, not yet registered
        self._channels: dict[str, Channel] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._counts: Counter[str] = Counter(dict.fromkeys(counted, 0))

    def count(self, what: str) -> None:
        """Add one to this count."""
        with self._lock:
            self._counts[what] += 1

    def counts(self) -> dict[str, int]:
        """Return how many clients wait now, and every count since the start."""
        with self._lock:
            return {"waiting": len(self._channels), **self._counts}

    def publishing(self, request_id: str) -> None:
        """Note that the task is being published. Its answer is lost if it comes before `register`."""
        with self._lock:
            self._published.add(request_id)

    def register(self, request_id: str) -> Channel:
        """Return the channel that gets the answer to this id from now on."""
        with self._lock:
            self._published.discard(request_id)
            channel = self._channels[request_id] = Channel()
            return channel

    def forget(self, request_id: str) -> None:
        """Note that nobody waits for this id any more."""
        with self._lock:
            self._published.discard(request_id)
            self._channels.pop(request_id, None)

    def ended(self, request_id: str) -> None:
        """Note that the whole answer has come. Anything later for this id is an error of the node."""
        with self._lock:
            self._ended[request_id] = None
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)

    def has_ended(self, request_id: str) -> bool:
        """Return whether the whole answer to this id has come."""
        with self._lock:
            return request_id in self._ended

    def find(self, request_id: str) -> Channel | None:
        """Return the channel for this id. None: nobody waits for it; that is counted as early or unknown."""
        with self._lock:
            channel = self._channels.get(request_id)
            if channel is None and request_id not in self._ended:
                self._counts["early" if request_id in self._published else "unknown"] += 1
            return channel
