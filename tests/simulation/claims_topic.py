"""The simulated topic of claims, and a node's part in it (supervisor.broker.claims_topic.ClaimsTopic).

The topic has one order. A producer stores in the order in which it sends; what has no receipt when the connection is
lost is sent again after it is back, and may then stand in the topic twice. What was written, and reported as failed,
may be stored all the same; if the producer was closed meanwhile, even after what the next one has stored (decision 9).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.broker.publisher import NOT_CONNECTED
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Event
from tests.simulation.library import Link
from tests.simulation.pulsar import ClaimsLog
from tests.simulation.world import World

SEND_TIMEOUT = 10.0  # seconds
MADE_ANEW = (2.0, 4.0)  # seconds without a connection after which the producer is made anew (LOST_TIME, REOPEN)
REOPENS = (0.05, 1.0)  # seconds between attempts to make it
COMES_LATE, LATE = 0.3, (0.0, 5.0)  # share of messages that are stored after their producer was closed; seconds


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
        self._on_wire: dict[int, bytes] = {}  # written and not stored yet, by number
        self._has_producer = True
        self._opening = 0  # counts what opens the topic: an attempt of an earlier one ends
        self._waits = False  # what is sent stands in a queue until the library has connected again
        self._stores_at = 0.0  # when the message before is stored
        self._remember_s = 0.0  # for how long the node remembers what it has read
        self._is_wanted = False
        self._asked_at = self._since = 0.0  # when the node wanted to read, and from when on
        self._place: int | None = None  # how far it was read; None: the reader is not open
        self._reader = 0
        self._reads_at = 0.0
        log.readers.append(self._read_on)

    def open(self) -> None:
        """A client is connected."""
        self._opening += 1
        self._has_producer = not self._link.server.is_unkind or not self._link.server.are_claims_away
        if not self._has_producer:
            self._world.after(self._world.dice.uniform(*REOPENS), self._reopen, self._opening)
        if self._log.is_refused:
            self._post(ClaimsOpened("AuthorizationError", is_refused=True))
        else:
            self._post(ClaimsOpened("Timeout" if self._link.server.are_claims_away else ""))
            if self._is_wanted:
                self._read()

    def publish(self, number: int, data: bytes) -> None:
        """Send a message; ClaimsStored is posted."""
        if not self._has_producer:
            self._post(ClaimsStored(number, NOT_CONNECTED))
            return
        self._pending[number] = _Pending(number, data, self._world.now)
        if not self._waits:
            self._send(self._pending[number])
        self._world.after(SEND_TIMEOUT, self._time_out, number)

    def lost(self) -> None:
        """The connection is lost."""
        self._connection += 1
        self._wait()

    def back(self) -> None:
        """The library has connected again: it sends what has no receipt, and reads on."""
        if self._waits or not self._link.server.is_unkind:
            self._waits = False
            self._on_wire.clear()  # the broker takes nothing more from the connection before
            self._stores_at = 0.0
            for pending in self._pending.values():
                self._send(pending)
        self._read_on()

    def fail_pending(self) -> None:
        """The client was closed."""
        self._place = None
        self._close_producer()

    def refuse(self) -> None:
        """The broker stores nothing more in the topic: it was terminated, or is over a quota."""
        self._post(ClaimsOpened("TopicTerminated", is_refused=True))
        self.fail_pending()

    def read(self, reach_s: float, remember_s: float) -> None:
        """Begin or end to read."""
        self._is_wanted = reach_s > 0
        self._asked_at, self._since = self._world.now, self._world.now - reach_s
        self._remember_s = remember_s
        self._read()

    def _read(self) -> None:
        self._reader += 1
        self._place = None
        if self._is_wanted:
            self._world.after(self._world.dice.uniform(0.01, 0.06), self._open_reader, self._reader)

    # --- the library's part ---

    @property
    def _is_up(self) -> bool:
        return self._link.is_up and self._link.has_producer and not self._link.server.are_claims_away

    def _wait(self) -> None:
        self._waits = True
        if not self._link.is_cut:  # whoever would have stored it is gone
            self._on_wire.clear()
        if self._link.server.is_unkind:
            self._world.after(self._world.dice.uniform(*MADE_ANEW), self._make_anew, self._connection)

    def _make_anew(self, connection: int) -> None:
        """What ClaimsTopic._tend does when the library has not connected again by itself."""
        if connection == self._connection and self._waits and self._has_producer and not self._link.is_closed:
            self._world.faults["producer of claims made anew"] += 1
            self._close_producer()
            self._has_producer = False
            self._opening += 1
            self._reopen(self._opening)

    def _reopen(self, opening: int) -> None:
        if opening != self._opening or self._link.is_closed or self._log.is_refused:
            return
        if self._is_up:
            self._has_producer, self._waits = True, False
            self._post(ClaimsOpened())
        else:
            self._world.after(self._world.dice.uniform(*REOPENS), self._reopen, opening)

    def _close_producer(self) -> None:
        pending, self._pending = list(self._pending), {}
        late, self._on_wire = self._on_wire, {}
        self._connection += 1
        self._waits = False
        self._stores_at = 0.0
        for number in pending:
            self._post(ClaimsStored(number, "AlreadyClosed"))
        for data in late.values() if self._link.server.is_unkind else ():
            if self._world.dice.random() < COMES_LATE:
                self._world.after(self._world.dice.uniform(*LATE), self._store_late, data)

    def _store_late(self, data: bytes) -> None:
        if self._link.server.is_up and not self._link.server.are_claims_away and not self._log.is_refused:
            self._world.faults["claims stored after their producer was closed"] += 1
            self._log.append(data, self._world.now)

    def _send(self, pending: _Pending) -> None:
        self._on_wire[pending.number] = pending.data
        stores_at = max(self._world.now + self._world.dice.uniform(0.001, 0.012), self._log.stores_late_until)
        self._stores_at = max(self._stores_at, stores_at)
        self._world.at(self._stores_at, self._store, pending, self._connection)

    def _store(self, pending: _Pending, connection: int) -> None:
        is_pending = self._pending.get(pending.number) is pending
        if connection != self._connection or not (is_pending or self._link.server.is_unkind):
            return
        if not self._is_up:
            self._connection += 1  # it is not written: all that follows waits with it
            self._wait()
            self._world.after(0.3, self._retry, self._connection)
            return
        self._on_wire.pop(pending.number, None)
        self._log.append(pending.data, self._world.now)
        if is_pending:
            delay = max(self._world.dice.uniform(0.0005, 0.005), self._log.receipts_late_until - self._world.now)
            self._world.after(delay, self._receipt, pending.number, connection)
        else:
            self._world.faults["claims stored after they were reported as failed"] += 1

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
        """The library gives up all that waits with the first whose time is over."""
        if number not in self._pending or self._link.is_closed:
            return
        numbers = list(self._pending) if self._link.server.is_unkind else [number]
        for each in numbers:
            del self._pending[each]
            self._world.faults["claims not stored in time"] += 1
            self._post(ClaimsStored(each, "Timeout"))

    def _open_reader(self, reader: int) -> None:
        if reader != self._reader or self._link.is_closed:
            return
        if not self._is_up:
            self._world.after(0.5, self._open_reader, reader)
            return
        self._post(ClaimsRead(b"", is_start=True))
        now = self._world.now
        since = self._since if now < self._asked_at + self._remember_s else now - self._remember_s
        self._place = bisect_left(self._log.stored_at, since)
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
