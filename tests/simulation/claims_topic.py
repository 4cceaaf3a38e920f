"""The simulated topic of claims, and a node's part in it (supervisor.broker.claims_topic.ClaimsTopic).

The topic has one order. A producer stores in the order in which it sends; what has no receipt when the connection is
lost is sent again after it is back, and may then stand in the topic twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Event
from tests.simulation.library import Link
from tests.simulation.pulsar import ClaimsLog
from tests.simulation.world import World

SEND_TIMEOUT = 10.0  # seconds


@dataclass
class _Pending:
    number: int
    data: bytes
    sent_at: float


class SimClaimsTopic:
    """One node's producer and reader."""

    def __init__(self, world: World, link: Link, log: ClaimsLog, post: Callable[[Event], None]) -> None:
        self._world, self._link, self._log, self._post = world, link, log, post
        self._pending: dict[int, _Pending] = {}
        self._connection = 0
        self._waits = False  # what is sent stands in a queue until the library has connected again
        self._stores_at = 0.0  # when the message before is stored
        self._is_wanted = False
        self._place: int | None = None  # how far it was read; None: the reader is not open
        self._reader = 0
        self._reads_at = 0.0
        log.readers.append(self._read_on)

    def open(self) -> None:
        """A client is connected."""
        if self._log.is_refused:
            self._post(ClaimsOpened("AuthorizationError", is_refused=True))
        else:
            self._post(ClaimsOpened("Timeout" if self._link.server.are_claims_away else ""))
            if self._is_wanted:
                self.read(True)

    def publish(self, number: int, data: bytes) -> None:
        """Send a message; ClaimsStored is posted."""
        self._pending[number] = _Pending(number, data, self._world.now)
        if not self._waits:
            self._send(self._pending[number])
        self._world.after(SEND_TIMEOUT, self._time_out, number)

    def lost(self) -> None:
        """The connection is lost."""
        self._connection += 1
        self._waits = True

    def back(self) -> None:
        """The library has connected again: it sends what has no receipt, and reads on."""
        self._waits = False
        for pending in self._pending.values():
            self._send(pending)
        self._read_on()

    def fail_pending(self) -> None:
        """The client was closed."""
        pending, self._pending = list(self._pending), {}
        self._connection += 1
        self._waits = False
        self._place = None
        for number in pending:
            self._post(ClaimsStored(number, "AlreadyClosed"))

    def refuse(self) -> None:
        """The broker stores nothing more in the topic: it was terminated, or is over a quota."""
        self._post(ClaimsOpened("TopicTerminated", is_refused=True))
        self.fail_pending()

    def read(self, is_wanted: bool) -> None:
        """Begin or end to read, from the beginning."""
        self._is_wanted = is_wanted
        self._reader += 1
        self._place = None
        if is_wanted:
            self._world.after(self._world.dice.uniform(0.01, 0.06), self._open_reader, self._reader)

    # --- the library's part ---

    @property
    def _is_up(self) -> bool:
        return self._link.is_up and self._link.has_producer and not self._link.server.are_claims_away

    def _send(self, pending: _Pending) -> None:
        self._stores_at = max(self._stores_at, self._world.now + self._world.dice.uniform(0.001, 0.012))
        self._world.at(self._stores_at, self._store, pending, self._connection)

    def _store(self, pending: _Pending, connection: int) -> None:
        if connection != self._connection or self._pending.get(pending.number) is not pending:
            return
        if not self._is_up:
            self._connection += 1  # it is not written: all that follows waits with it
            self._waits = True
            self._world.after(0.3, self._retry, self._connection)
            return
        self._log.append(pending.data)
        self._world.after(self._world.dice.uniform(0.0005, 0.005), self._receipt, pending.number, connection)

    def _retry(self, connection: int) -> None:
        if connection == self._connection and not self._link.is_closed:
            if self._is_up:
                self.back()
            else:
                self._world.after(0.3, self._retry, connection)

    def _receipt(self, number: int, connection: int) -> None:
        if connection == self._connection and self._link.is_up and self._pending.pop(number, None):
            self._post(ClaimsStored(number, ""))

    def _time_out(self, number: int) -> None:
        if self._pending.pop(number, None) and not self._link.is_closed:
            self._world.faults["claims not stored in time"] += 1
            self._post(ClaimsStored(number, "Timeout"))

    def _open_reader(self, reader: int) -> None:
        if reader != self._reader or self._link.is_closed:
            return
        if not self._is_up:
            self._world.after(0.5, self._open_reader, reader)
            return
        self._post(ClaimsRead(b"", is_start=True))
        self._place = 0
        self._read_on()

    def _read_on(self) -> None:
        """What was stored comes a moment later, in order."""
        if self._place is None or self._link.is_closed or not self._is_up:
            return
        while self._place < len(self._log.messages):
            data = self._log.messages[self._place]
            self._place += 1
            self._reads_at = max(self._reads_at, self._world.now + self._world.dice.uniform(0.001, 0.01))
            self._world.at(self._reads_at, self._arrive, self._reader, data)

    def _arrive(self, reader: int, data: bytes) -> None:
        if reader == self._reader and not self._link.is_closed:
            self._post(ClaimsRead(data))
