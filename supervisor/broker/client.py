"""`Broker` (contract.py) on a real Pulsar: puts intake, naks, publisher and connection together.

Facts behind the odd-looking parts, each measured on a real broker: docs/decisions/0003-broker.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pulsar

from supervisor.broker.access import Access
from supervisor.broker.claims_topic import ClaimsTopic
from supervisor.broker.connection import Connection
from supervisor.broker.contract import Batches
from supervisor.broker.intake import GIVE_BACK, Intake
from supervisor.broker.naks import Naks
from supervisor.broker.other_nodes import OtherNodes
from supervisor.broker.publisher import DeadLetters, send_record
from supervisor.broker.topics import Topics
from supervisor.events import Event, MessageKey, Received, RetryHere
from workernode.settings import Settings

# Seconds beyond TASK_TIMEOUT that claims are kept: clocks differ, and a task may end a little after its time.
CLAIMS_MARGIN = 60.0


class PulsarBroker:
    """The connection to Pulsar; what each method does is written in contract.py.

    Args:
        settings: where the broker is, with which token, which model.
        post: takes events from any thread.
        library: the module `pulsar`, or a fake of it.
        clock: monotonic time.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        post: Callable[[Event], None],
        library: Any = pulsar,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._library = library
        self._post = post
        self._clock = clock
        # Held naks are not acked either: with more of them than the highest cap, no further message is taken.
        self._most_naks = settings.max_process_num
        self._naks = Naks()
        self._other_nodes = OtherNodes()
        self._retrying = 0  # messages that are neither held here nor at the owner yet: RetryHere was posted for them
        self._intake = Intake(post, clock, wall)
        topics = Topics.of(settings)
        self._claims = ClaimsTopic(library, topics.claims, settings.task_timeout + CLAIMS_MARGIN, post, wall)
        self._connection = Connection(library, Access.of(settings), topics, self._intake, post, clock, self._claims)
        self._letters = DeadLetters(library, topics.dead_letters, post, lambda: self._connection.client)

    def start(self) -> None:
        self._connection.start()

    def use_token(self, token: str) -> None:
        self._connection.use_token(token)

    # --- taking messages ---

    def allow(self, count: int) -> None:
        self._intake.allow(count, ask=len(self._naks) < self._most_naks)
        if count > 0 and self._connection.consumer is None:
            self._connection.wake()

    def close_intake(self, *, is_empty: bool) -> None:
        self._intake.close()
        is_idle = is_empty and not self._naks and not self._retrying and self._connection.consumer is not None
        if is_idle and self._clock() >= self._intake.closed_since() + GIVE_BACK:
            self._connection.ask_to_leave(until=0.0)

    def seen(self, received: Received) -> None:
        self._intake.seen()
        self._naks.arrived(received, self._clock())
        self._other_nodes.arrived(received, self._clock())

    def step_aside(self, seconds: float) -> None:
        if self._naks.has_batches or self._retrying:  # another node would get a message that is tried again here
            return
        self._connection.ask_to_leave(until=self._clock() + seconds)

    # --- deciding what becomes of messages ---

    def ack(self, received: Received) -> None:
        consumer = self._connection.consumer
        if consumer is not None:
            try:
                consumer.acknowledge(received.message)
            except self._library.PulsarException:
                pass  # closed: the broker hands it out again, and the ledger knows it

    def nak(self, received: Received, delay_s: float) -> None:
        self._naks.add(received, self._clock() + delay_s)

    def send_due_naks(self, now: float, batches: Batches, everything: bool = False) -> None:
        for received in self._intake.overdue(now):
            if batches.is_known(received.key):  # redelivered after a lost connection: a nak would have it run twice
                self._intake.hand_over(received)
            else:
                self._naks.add(received, now)
        for key in self._intake.waiting():  # likewise; its nak belongs to the delivery before
            self._naks.discard(key)
        done = self._naks.take_due(now, _AllBatches(batches, self._intake), everything=everything)
        self._retrying = len(done.retry_here)
        for received in done.retry_here:
            self._post(RetryHere(received))
        consumer = self._connection.consumer
        for received in done.redeliver if consumer is not None else ():
            consumer.negative_acknowledge(received.message)
            self._other_nodes.sent_back(received.key, now)

    def do_others_serve(self) -> bool:
        return self._other_nodes.serve(self._clock())

    def next_due_nak(self) -> float:
        return min(self._naks.next_at(), self._intake.next_overdue())

    @property
    def held_naks(self) -> int:
        return len(self._naks)

    # --- storing ---

    def publish_record(self, number: int, record: bytes) -> None:
        send_record(self._library, self._connection.records, self._post, number, record)

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        self._letters.send(number, payload, properties)

    # --- claims ---

    def publish_claims(self, number: int, message: bytes) -> None:
        self._claims.publish(number, message)

    def read_claims(self, reach_s: float, remember_s: float) -> None:
        self._claims.read(reach_s, remember_s)

    # --- the connection ---

    def connected(self) -> bool:
        return self._connection.is_up()

    def close(self) -> None:
        self._claims.close()
        self._connection.close()


class _AllBatches:
    """What the ledger knows of batches, and what waits at the intake."""

    def __init__(self, ledger: Batches, intake: Intake) -> None:
        self._ledger = ledger
        self._intake = intake

    def is_known(self, key: MessageKey) -> bool:
        """See Batches."""
        return self._ledger.is_known(key)

    def has_others_of_batch(self, key: MessageKey) -> bool:
        """See Batches."""
        return self._intake.has_early_of_batch(key[:3]) or self._ledger.has_others_of_batch(key)

    def has_answered_of_batch(self, key: MessageKey) -> bool:
        """See Batches."""
        return self._ledger.has_answered_of_batch(key)
