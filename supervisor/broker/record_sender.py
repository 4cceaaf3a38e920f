"""Sends billing records and dead letters again until the broker has stored them. Pure: the broker is passed in.

A message may be acked only when its record, and its dead letter if it has one, are stored (spec 6).
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from supervisor.broker.contract import Broker
from supervisor.events import Stored

log = logging.getLogger(__name__)

STORE_RETRY = 1.0  # seconds before a record that could not be stored is sent again


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What goes to the dead-letter topic."""

    payload: bytes
    properties: dict[str, str]  # reason, request_id, node


@dataclass(slots=True)
class _Unstored:
    record: bytes | None  # None: it is stored
    letter: DeadLetter | None  # None: there is none, or it is stored


class RecordSender:
    """The records and dead letters that are on their way."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._unstored: dict[int, _Unstored] = {}  # by the number of the delivery
        self._again: deque[tuple[float, int]] = deque()  # when (monotonic), whose
        self._waiting: set[int] = set()  # those in `_again`

    def send(self, number: int, record: bytes, letter: DeadLetter | None) -> None:
        """Send a record, and the dead letter if there is one. For each of them Stored follows; pass it to `stored`.

        Args:
            number: of the delivery.
        """
        self._unstored[number] = _Unstored(record, letter)
        self._send(number)

    def stored(self, now: float, stored: Stored, request_id: str) -> bool:
        """One of them is stored, or could not be stored: then it is sent again after STORE_RETRY.

        Args:
            now: monotonic.
            request_id: for the log.

        Returns:
            True if all that the delivery needs is stored, for the first time.
        """
        unstored = self._unstored.get(stored.number)
        if unstored is None:
            return False
        if stored.fault:
            what, long = ("letter", "dead letter") if stored.dead_letter else ("record", "billing record")
            about = {"request_id": request_id, "what": what, "why": stored.fault}
            log.warning(
                "%s not stored in Pulsar: %s; it is sent again",
                long,
                stored.fault,
                extra={"event": "not_stored", **about},
            )
            if stored.number not in self._waiting:
                self._waiting.add(stored.number)
                self._again.append((now + STORE_RETRY, stored.number))
            return False
        if stored.dead_letter:
            unstored.letter = None
        else:
            unstored.record = None
        if unstored.record is not None or unstored.letter is not None:
            return False
        del self._unstored[stored.number]
        return True

    def is_stored(self, number: int) -> bool:
        """Return whether nothing of this delivery is on its way."""
        return number not in self._unstored

    def retry(self, now: float) -> None:
        """Send those again whose time has come."""
        while self._again and self._again[0][0] <= now:
            number = self._again.popleft()[1]
            self._waiting.discard(number)
            self._send(number)

    def next_retry(self) -> float:
        """Return the monotonic time at which `retry` has something to do; infinity if there is nothing."""
        return self._again[0][0] if self._again else float("inf")

    def _send(self, number: int) -> None:
        unstored = self._unstored.get(number)
        if unstored is None:
            return
        if unstored.record is not None:
            self._broker.publish_record(number, unstored.record)
        if unstored.letter is not None:
            self._broker.dead_letter(number, unstored.letter.payload, unstored.letter.properties)
