"""What the Pulsar library does for a node with the topic of claims: it stores messages, and reads those of all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.events import ClaimsRead, ClaimsStored

if TYPE_CHECKING:
    from tests.unit.supervisor.claims.node import Node

SEND_TIMEOUT = 10.0  # seconds after which the library gives a message up


@dataclass
class _Pending:
    number: int
    data: bytes
    sent_at: float


class TopicClient:
    """The library's part of a node's connection, as far as it is about claims (supervisor.claims.topic.Topic)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self.is_reading = False
        self.positions = 0
        self._pending: deque[_Pending] = deque()
        self._reader = 0
        self._is_started = False
        self._generation = 0

    def disconnected(self) -> None:
        """The connection is gone: what comes back over it is not for the next one."""
        self._generation += 1

    def connected(self) -> None:
        """There is a connection again."""
        for each in self._pending:  # the library stores again what it has no receipt for
            self._send(each)
        self.pump()

    def publish_claims(self, number: int, message: bytes) -> None:
        """See Topic."""
        pending = _Pending(number, message, self._world.now)
        self._pending.append(pending)
        self._send(pending)
        self._world.after(SEND_TIMEOUT, lambda: self._give_up(pending))

    def read_claims(self, reach_s: float, _remember_s: float) -> None:
        """See Topic."""
        self.is_reading, self._is_started = reach_s > 0, False
        self._reader += 1
        if self.is_reading:
            reader = self._reader
            self._world.after(0.005, lambda: self.start_reader() if reader == self._reader else None)

    def start_reader(self) -> None:
        """Read the topic from its beginning."""
        self._reader += 1
        self._is_started = True
        self.positions = 0
        self._node.post(lambda: self._node.claims.read(self._world.now, ClaimsRead(b"", is_start=True)))
        self.pump()

    def _send(self, pending: _Pending) -> None:
        generation = self._generation

        def store() -> None:
            if self._world.is_log_away:
                self._world.after(0.5, store)
                return
            if generation != self._generation and self._world.random.random() < 0.5:
                return  # the cut came first
            if pending not in self._pending:
                return
            self._world.log.append(pending.data)
            for node in self._world.nodes:
                node.topic.pump()
            if generation == self._generation:
                self._world.after(0.002, lambda: self._stored(pending, generation))

        if self._node.is_linked:
            self._world.after(0.003, store)

    def _stored(self, pending: _Pending, generation: int) -> None:
        if generation == self._generation and pending in self._pending:
            self._pending.remove(pending)
            self._node.post(lambda: self._node.claims.stored(self._world.now, ClaimsStored(pending.number, "")))

    def _give_up(self, pending: _Pending) -> None:
        if pending in self._pending and self._node.is_alive:
            self._pending.remove(pending)
            self._node.post(lambda: self._node.claims.stored(self._world.now, ClaimsStored(pending.number, "Timeout")))

    def pump(self) -> None:
        """Read what was stored since."""
        if not (self._is_started and self._node.is_linked and self._node.is_alive):
            return
        reader = self._reader
        while self.positions < len(self._world.log):
            data = self._world.log[self.positions]
            self.positions += 1
            self._node.post(lambda data=data: self._read(reader, data))

    def _read(self, reader: int, data: bytes) -> None:
        if reader == self._reader:
            self._node.claims.read(self._world.now, ClaimsRead(data))
