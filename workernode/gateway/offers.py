"""Bounds how many tasks of a worker wait for a gateway that cannot take their answers: the others need the slots.

A gateway that is back within OFFER_TIME gets the answer from the worker. Where many gateways are away at once (a broken
network, addresses that nobody listens at), what finds no place goes to the supervisor at once, which offers it again.
"""

from __future__ import annotations

import threading

SHARE = 4  # one slot of so many may wait


class Offers:
    """The places of one worker. Its tasks share them.

    Args:
        slots: of the worker.
    """

    def __init__(self, slots: int) -> None:
        self._free = threading.BoundedSemaphore(max(1, slots // SHARE))

    def place(self) -> Place:
        """Return the place of one offer; `release` must follow."""
        return Place(self._free)


class Place:
    """The place of one offer, which is taken when the offer has to wait."""

    def __init__(self, free: threading.BoundedSemaphore) -> None:
        self._free = free
        self._is_taken = False

    def may_wait(self) -> bool:
        """Take the place; return False if there is none."""
        self._is_taken = self._is_taken or self._free.acquire(blocking=False)
        return self._is_taken

    def release(self) -> None:
        """The offer has ended."""
        if self._is_taken:
            self._free.release()
