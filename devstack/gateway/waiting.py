"""Who waits for an answer: the table of request ids, and the channel from the node's connection to the client's.

It behaves as the platform's gateway does, its traps included (spec 1.2): a channel holds nothing, so handing something
to a client that has just left blocks for ever, and with it the reader of the node's connection.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from queue import Empty, SimpleQueue

# How many ended ids are remembered, to tell a repeated answer from one that nobody ever asked for.
REMEMBERED = 50_000
# How often a blocked sender looks whether its own side is still there, in seconds.
LOOK_S = 1.0


class SenderLeft(Exception):
    """The node closed its connection while what it had sent was still waiting to be taken."""


class Channel:
    """From one sender to one client's thread. `send` returns once the client's thread has taken the text."""

    def __init__(self) -> None:
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._taken = threading.Semaphore(0)
        self.closed = False

    def send(self, text: str, sender_left: Callable[[], bool]) -> None:
        """Hand the text over; blocks for as long as nobody takes it.

        Raises:
            SenderLeft: nobody took it, and `sender_left` came true.
        """
        self._texts.put(text)
        while not self._taken.acquire(timeout=LOOK_S):
            if sender_left():
                raise SenderLeft

    def close(self) -> None:
        """Nothing more comes: `receive` gives None from here on. Never waits."""
        self.closed = True
        self._texts.put(None)

    def receive(self, timeout: float) -> str | None:
        """The next text; None when the channel is closed.

        Raises:
            TimeoutError: nothing came for so many seconds.
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
        self._published: set[str] = set()  # handed to the broker, not yet waited for
        self._channels: dict[str, Channel] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._counts: Counter[str] = Counter(dict.fromkeys(counted, 0))

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def counts(self) -> dict[str, int]:
        """How many wait now, and every count since the start."""
        with self._lock:
            return {"waiting": len(self._channels), **self._counts}

    def publishing(self, request_id: str) -> None:
        """The task is on its way to the broker; its answer is lost if it comes before `register`."""
        with self._lock:
            self._published.add(request_id)

    def register(self, request_id: str) -> Channel:
        """From here on an answer to this id reaches the channel."""
        with self._lock:
            self._published.discard(request_id)
            channel = self._channels[request_id] = Channel()
            return channel

    def forget(self, request_id: str) -> None:
        """Nobody waits for this id any more."""
        with self._lock:
            self._published.discard(request_id)
            self._channels.pop(request_id, None)

    def ended(self, request_id: str) -> None:
        """The whole answer is here: anything that comes later for this id is a fault of the node's."""
        with self._lock:
            self._ended[request_id] = None
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)

    def has_ended(self, request_id: str) -> bool:
        with self._lock:
            return request_id in self._ended

    def find(self, request_id: str) -> Channel | None:
        """The channel of who waits for this id. None (counted: too early, or unknown): nobody does."""
        with self._lock:
            channel = self._channels.get(request_id)
            if channel is None and request_id not in self._ended:
                self._counts["early" if request_id in self._published else "unknown"] += 1
            return channel
