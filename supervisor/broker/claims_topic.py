"""The topic in which the nodes of a model claim tasks, on a real Pulsar. What the claims mean: supervisor/claims.

Facts from a real broker (4.0.8; docs/decisions/0011-claims.md): a topic without a subscription loses its messages when
its owner dies, so that a durable subscription keeps them. Nobody consumes from it. Once a minute a node moves its mark
on, past the claims that are too old to matter, so that the broker may delete them.

Claims have a client of their own, and so a connection of their own. Where the broker refuses a message (a terminated
topic), the library closes the connection; with the consumer of the tasks on it, the broker would hand out again all
that the node works on, just when claims cannot be used (seen on 4.0.8 with pulsar-client 3.13).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supervisor.broker.library import (
    close_client,
    describe,
    keep_thread_state,
    run_bounded,
    subscribe_without_taking,
)
from supervisor.broker.publisher import NOT_CONNECTED, fault_of
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Event

log = logging.getLogger(__name__)

SUBSCRIPTION = "workernode"
SEND_TIMEOUT = 10_000  # milliseconds after which the library gives up a message that the broker has not stored
MAX_PENDING = 10_000  # messages in the library's hands
READ_WAIT = 500  # milliseconds that the reader waits for a message before it checks whether it is still needed
READER_QUEUE = 1000  # messages
TRIM_INTERVAL = 60.0  # seconds, and up to as much again, between two moves of the subscription's mark
TRIM_MARGIN = 3600.0  # seconds for which claims are kept beyond their time: a node's clock may be ahead
LOST_TIME = 2.0  # seconds without a connection after which the producer is made anew
REOPEN = 1.0  # seconds before what failed is tried again
# Seconds for which a client's first attempt keeps the node from taking tasks: the limit of an operation (connection.py)
# and a little more, for the calls of the library that have none.
OPEN_TIME = 12.0
CLOSE_TIME = 1.0  # seconds that a client gets to close
# Seconds after which a client whose thread has not come back from the library is made anew: some calls have no time
# limit. Longer than those take which have one: to subscribe, to make a producer, to close one.
STUCK_TIME = 40.0
NEVER = float("inf")
# The broker lets no node in, or stores nothing more: the topic was terminated, its backlog is over a quota, a limit of
# the namespace is reached (producers, consumers, topics, subscriptions), or the topic has a schema. That lasts until a
# person ends it, so that streams do not wait for it; it is tried again all the same.
CLOSED = (
    *("TopicTerminated", "ProducerBlockedQuotaExceededError", "ProducerBlockedQuotaExceededException"),
    *("ProducerBusy", "ConsumerBusy", "NotAllowedError", "IncompatibleSchema"),
)
# Seconds for which the topic may stay unopened, without a reason, while the node is connected: longer than it takes to
# replace an owner that was killed (80 s seen). After that it counts as closed: a policy of the namespace gives no other
# reason (allowAutoSubscriptionCreation, encryptionRequired; seen on 4.0.8), and streams would wait for ever.
UNOPENED_TIME = 120.0


@dataclass(eq=False)
class _Connection:
    """One client of the library."""

    client: Any
    is_node_up: Callable[[], bool]  # the node's other connection to the broker stands
    producer: Any = None
    is_refused: bool = False  # a right or the topic is missing: not tried again with this client
    unopened_since: float = NEVER  # monotonic: the node is connected, and the topic is not opened
    is_tried: threading.Event = field(default_factory=threading.Event)  # the first attempt to open the topic is over
    busy_since: float = NEVER  # monotonic: its thread has been in calls of the library since then


class ClaimsTopic:
    """Publishes and reads claims. `open` is called by the thread that connects, all else by the owner's thread.

    Args:
        library: the module `pulsar`, or a fake of it.
        topic: its whole name.
        keep_s: seconds that a claim matters.
        post: takes events from any thread.
        wall: seconds since the epoch.
        clock: monotonic. What was read is remembered by it, whatever happens to the other.
    """

    def __init__(
        self,
        library: Any,
        topic: str,
        keep_s: float,
        post: Callable[[Event], None],
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._library = library
        self._name = topic
        self._topic = ""  # the topic or its first partition, once that is known
        self._keep_s = keep_s
        self._post = post
        self._wall, self._clock = wall, clock
        self._connection: _Connection | None = None
        self._is_wanted = False  # the owner wants to read
        self._asked_at = 0.0  # monotonic: when it wanted that
        self._reach_s = 0.0  # seconds: it wanted the claims from so long before that on
        self._remember_s = 0.0  # seconds for which it remembers them
        self._reader_number = 0  # counts the calls of `read`: a reader of an earlier one stops
        self._stopping = threading.Event()

    def open(self, client: Any, is_node_up: Callable[[], bool]) -> None:
        """Make topic and subscription if they are not there, and a producer. ClaimsOpened is posted in any case.

        Called whenever the node has connected, before the first message may be taken.

        Args:
            client: a client of the library for claims alone. It is closed when the next one comes, and by `close`.
            is_node_up: returns whether the node's other connection stands: if not, it may be cut off.
        """
        connection = self._use(client, is_node_up)
        if not connection.is_tried.wait(OPEN_TIME):
            self._post(ClaimsOpened("Timeout"))

    def is_stuck(self) -> bool:
        """Return True if the client is of no use any more: a call of the library does not come back. See `replace`."""
        return self._connection is not None and self._clock() >= self._connection.busy_since + STUCK_TIME

    def replace(self, client: Any, is_node_up: Callable[[], bool]) -> None:
        """Go on with another client, without waiting for it. The arguments are those of `open`."""
        log.warning(
            "the client of the topic of claims %s does not answer: it is made anew", self._name,
            extra={"event": "claims_stuck", "topic": self._name},
        )  # fmt: skip
        self._use(client, is_node_up)

    def _use(self, client: Any, is_node_up: Callable[[], bool]) -> _Connection:
        before, connection = self._connection, _Connection(client, is_node_up)
        self._connection = connection
        if before is not None:
            self._close_client(before)  # this also frees its thread if it is still connecting
        if self._stopping.is_set():
            self._close_client(connection)
        else:  # a thread of its own: that of the client before may never come back from the library
            threading.Thread(target=lambda: self._tend(connection), name="claims", daemon=True).start()
        return connection

    def _close_client(self, connection: _Connection) -> None:
        connection.is_tried.set()
        run_bounded(lambda: close_client(connection.client, self._library), CLOSE_TIME)

    def _try_to_open(self, connection: _Connection) -> None:
        library, topic, client = self._library, self._topic, connection.client
        try:
            if not topic:
                # The order of one partition decides, where the namespace makes its topics partitioned. Asked for once:
                # without a connection the library's call has no time limit (seen on 3.13 with a killed broker).
                topic = client.get_topic_partitions(self._name)[0]
                subscribe_without_taking(client, topic, SUBSCRIPTION, library)
            producer = client.create_producer(
                topic,
                send_timeout_millis=SEND_TIMEOUT,
                block_if_queue_full=False,
                max_pending_messages=MAX_PENDING,
                batching_enabled=False,  # one message holds all claims of some milliseconds already
            )
        except library.PulsarException as error:
            if connection is self._connection:  # else the client was closed because there is another one
                connection.is_refused = isinstance(error, (library.AuthorizationError, library.TopicNotFound))
                is_closed = isinstance(error, tuple(getattr(library, name) for name in CLOSED))
                if is_closed:  # a person may delete the topic, and with it its subscription, which is then made anew
                    self._topic = ""
                stays_unopened = isinstance(error, library.Timeout) and self._stays_unopened(connection)
                self._post(ClaimsOpened(describe(error), connection.is_refused or is_closed or stays_unopened))
            return
        self._topic, connection.producer = topic, producer
        connection.unopened_since = NEVER
        if connection is self._connection:
            self._post(ClaimsOpened())

    def _stays_unopened(self, connection: _Connection) -> bool:
        """Opening the topic took too long; return whether it has done so for UNOPENED_TIME although the node is
        connected. A node that is cut off has to wait: others may have taken its streams over.
        """
        now = time.monotonic()
        if not connection.is_node_up():
            connection.unopened_since = NEVER
            return False
        if connection.unopened_since == NEVER:
            connection.unopened_since = now
            log.warning(
                "the broker answers, but does not open the topic of claims %s: streams wait for it for up to %g s",
                self._name, UNOPENED_TIME, extra={"event": "claims_unopened", "topic": self._name},
            )  # fmt: skip
        return now >= connection.unopened_since + UNOPENED_TIME

    def publish(self, number: int, message: bytes) -> None:
        """Send a message without waiting. ClaimsStored is posted for it in any case, from any thread."""

        def done(result: Any, _id: object) -> None:
            keep_thread_state()
            self._post(ClaimsStored(number, fault_of(self._library, result)))

        connection = self._connection
        producer = connection.producer if connection is not None else None
        if producer is None:
            self._post(ClaimsStored(number, NOT_CONNECTED))
            return
        try:
            producer.send_async(message, done)
        except self._library.PulsarException as error:
            self._post(ClaimsStored(number, describe(error)))

    def read(self, reach_s: float, remember_s: float) -> None:
        """Begin or end to read. ClaimsRead is posted for each message.

        Args:
            reach_s: read what was published in the last so many seconds, and all that follows; 0: end to read.
            remember_s: seconds for which the owner remembers what it has read: a reader that is made anew after that
                time need not begin with what the one before began with.
        """
        self._reader_number += 1
        self._is_wanted = reach_s > 0
        self._asked_at, self._reach_s, self._remember_s = self._clock(), reach_s, remember_s
        if self._is_wanted:
            number = self._reader_number
            threading.Thread(target=lambda: self._read(number), name="claims-reader", daemon=True).start()

    def close(self) -> None:
        """The node stops: end the threads, and disconnect. What was published is stored before."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            self._close_client(connection)

    # --- the threads ---

    def _is_reading(self, number: int) -> bool:
        return self._is_wanted and number == self._reader_number and not self._stopping.is_set()

    def _read(self, number: int) -> None:
        while self._is_reading(number):
            connection = self._connection
            try:
                if connection is not None and connection.producer is not None:
                    self._read_from(connection, number)
            except self._library.PulsarException as error:
                about = {"event": "claims_not_read", "why": describe(error)}
                # Not where the node stops, or the client was made anew, which closes the reader, too.
                if self._is_reading(number) and connection is self._connection:
                    log.warning("the claims of other nodes cannot be read (%s); tried again", about["why"], extra=about)
            self._stopping.wait(REOPEN)

    def _read_from(self, connection: _Connection, number: int) -> None:
        """Read until nobody wants to, or until the client is made anew."""
        earliest = self._library.MessageId.earliest
        reader = connection.client.create_reader(self._topic, earliest, receiver_queue_size=READER_QUEUE)
        # A reader that is made anew begins where the one before did, while what that has read first is remembered.
        passed = self._clock() - self._asked_at
        reach_s = passed + self._reach_s if passed < self._remember_s else self._remember_s
        reader.seek(int((self._wall() - reach_s) * 1000))
        if self._is_reading(number):
            self._post(ClaimsRead(b"", is_start=True))
        while self._is_reading(number) and connection is self._connection:
            try:
                message = reader.read_next(READ_WAIT)
            except self._library.Timeout:
                continue
            if self._is_reading(number):
                self._post(ClaimsRead(message.data()))
        reader.close()

    def _tend(self, connection: _Connection) -> None:
        """Open the topic with a client, and again if that failed; move the subscription's mark on now and then."""
        trim_at = time.monotonic() + TRIM_INTERVAL
        up_at = time.monotonic()
        while connection is self._connection and not self._stopping.is_set():
            connection.busy_since = self._clock()
            if connection.producer is None or connection.producer.is_connected():
                up_at = time.monotonic()
            elif time.monotonic() > up_at + LOST_TIME:  # the library's own pauses double up to a minute
                lost, connection.producer = connection.producer, None
                close_client(lost, self._library)
            if connection.producer is None and not connection.is_refused:
                self._try_to_open(connection)
                connection.is_tried.set()
            elif connection.producer is not None and time.monotonic() >= trim_at:
                trim_at = time.monotonic() + TRIM_INTERVAL * (1 + random.random())  # nodes take turns
                self._trim(connection.client)
            connection.busy_since = NEVER
            self._stopping.wait(REOPEN)

    def _trim(self, client: Any) -> None:
        try:
            consumer = client.subscribe(
                self._topic, SUBSCRIPTION, consumer_type=self._library.ConsumerType.Shared, receiver_queue_size=1
            )
            try:
                consumer.seek(int((self._wall() - self._keep_s - TRIM_MARGIN) * 1000))
            finally:
                consumer.close()
        except self._library.PulsarException as error:  # another node does it at this moment, or no connection
            log.debug(
                "old claims could not be released for deletion; tried again a minute later",
                extra={"event": "claims_trim", "why": describe(error)},
            )
