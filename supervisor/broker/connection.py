"""The thread that connects to Pulsar, and connects again: client, producer of the records, consumer of the tasks.

Claims get a client of their own, made in the same way (claims_topic.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from supervisor.broker.access import Access
from supervisor.broker.claims_topic import ClaimsTopic
from supervisor.broker.handshake import NoConnection, Session
from supervisor.broker.intake import Intake
from supervisor.broker.library import (
    close_client,
    describe,
    keep_thread_state,
    open_client,
    run_bounded,
    subscribe_without_taking,
)
from supervisor.broker.partitions import Listener, PartitionedConsumer
from supervisor.broker.publisher import open_records
from supervisor.broker.topics import Topics, short_name
from supervisor.events import BrokerDown, BrokerUp, Event

log = logging.getLogger(__name__)

OPERATION_TIMEOUT = 10  # seconds until an attempt to connect or to subscribe has failed
LIBRARY_NAK_DELAY = 100  # milliseconds: the shortest that the library allows
# Seconds between attempts to connect. Within an attempt the library tries again at growing distances of up to 4 s.
RETRY_FIRST, RETRY_LONGEST = 0.5, 1.0
# The library's own pauses between attempts double up to a minute, and cannot be set. So after this many seconds without
# a connection the broker is asked by the handshake, again and again; once it lets us in, the client is made anew.
LOST_TIME, ASK_INTERVAL = 2.0, 1.0
EXPLAIN_TIME = 5.0  # seconds for finding out why an attempt failed
CHECK_INTERVAL = 0.1  # seconds between checks of the connection: the library waits so long before it connects again
PARTITIONS_INTERVAL = 60.0  # seconds between checks whether the topic has got more partitions
STOP_TIME = 2.0  # seconds that the thread gets to stop
CLOSE_TIME = 3.0  # seconds that the client gets to close


class Connection:
    """Holds the connection. `start`, `ask_to_leave` and `close` are called by the owner's thread.

    Args:
        library: the module `pulsar`, or a fake of it.
        access: where the broker is.
        topics: what to consume and produce.
        intake: takes the consumer's messages.
        post: takes events from any thread.
        clock: monotonic time.
        claims: the topic of claims; it is opened at each connection, before the first message may be taken.
    """

    def __init__(
        self,
        library: Any,
        access: Access,
        topics: Topics,
        intake: Intake,
        post: Callable[[Event], None],
        clock: Callable[[], float],
        claims: ClaimsTopic,
    ) -> None:
        self._library = library
        self._claims = claims
        self._access = access
        self._topics = topics
        self._intake = intake
        self._post = post
        self._clock = clock
        self.client: Any = None
        self.consumer: Any = None
        self.records: Any = None  # the producer of billing records
        self._changed = threading.Condition()
        self._leave: tuple[int, float] | None = None  # when the owner has seen so many messages; until (monotonic)
        self._away_until = 0.0  # monotonic: no consumer before that moment
        self._look_for_partitions_at = 0.0  # monotonic
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def use_token(self, token: str) -> None:
        """Authenticate with this token from now on: at the next connection, or when the broker asks again."""
        self._access = replace(self._access, token=token)

    def wake(self) -> None:
        """Have the thread check at once whether a consumer is needed."""
        with self._changed:
            self._changed.notify()

    def ask_to_leave(self, until: float) -> None:
        """Close the consumer, unless a message comes that the owner has not seen.

        Args:
            until: monotonic time before which no other consumer is opened.
        """
        with self._changed:
            self._leave = (self._intake.count_seen, until)
            self._changed.notify()

    def is_up(self) -> bool:
        """Return True while records can be stored and messages be taken, or while no consumer is needed."""
        records = self.records
        return records is not None and records.is_connected() and self._is_consumer_up()

    def close(self) -> None:
        """Send what is pending and disconnect. The broker redelivers what was not acked."""
        self._stopping.set()
        self.wake()
        if not self._thread.is_alive():
            return
        if self.records is not None:
            self._thread.join(STOP_TIME)
        client = self.client
        if client is not None:  # this also frees a thread that is still connecting
            run_bounded(lambda: close_client(client, self._library), CLOSE_TIME)
        self._thread.join(STOP_TIME)

    # --- the thread ---

    def _run(self) -> None:
        pause = RETRY_FIRST
        while not self._stopping.is_set():
            try:
                self._connect()
                pause = RETRY_FIRST
                self._post(BrokerUp())
                self._serve()
                if not self._stopping.is_set():
                    self._drop()
            except Exception as error:  # the edge of this thread: whatever it is, it is reported and tried again
                are_records_open = self.records is not None
                self._drop()
                if self._stopping.is_set():
                    return
                self._post(BrokerDown(self._explain(error, are_records_open=are_records_open)))
                self._stopping.wait(pause)
                pause = min(pause * 2, RETRY_LONGEST)

    def _connect(self) -> None:
        client = self.client = self._open_client()
        # The records' topic first: what cannot be billed must not be taken (spec 4).
        self.records = open_records(client, self._topics.records)
        # The subscription exists from now on, and a missing right shows, before the first message may be taken.
        subscribe_without_taking(client, self._topics.tasks, self._topics.subscription, self._library)
        self._claims.open(self._open_client(), self.is_up)

    def _open_client(self) -> Any:
        return open_client(self._access, OPERATION_TIMEOUT, self._library, lambda: self._access.token)

    def _serve(self) -> None:
        """Open and close the consumer as it is needed, until the node stops or the client is to be made anew."""
        lost = LossTimer()
        consumer_was_up = True
        while not self._stopping.is_set():
            consumer_is_up = self._is_consumer_up()
            if consumer_is_up and not consumer_was_up:
                self._intake.reconnected()
            elif consumer_was_up and not consumer_is_up:
                self._intake.disconnected()
            consumer_was_up = consumer_is_up
            if lost.is_due(self._clock(), self.is_up()) and not self._mend():
                return
            if self._claims.is_stuck():
                self._claims.replace(self._open_client(), self.is_up)
            with self._changed:
                if not self._has_to_act():
                    self._changed.wait(CHECK_INTERVAL)
                leave, self._leave = self._leave, None
            if leave is not None and self.consumer is not None and self._intake.detach_if_unused(leave[0]):
                consumer, self.consumer = self.consumer, None
                self._away_until = leave[1]
                consumer.close()
            if self.consumer is None and self._needs_consumer():
                self.consumer = self._intake.attach(self._subscribe)
            elif isinstance(self.consumer, PartitionedConsumer):
                self._tend_partitions(self.consumer)

    def _tend_partitions(self, consumer: PartitionedConsumer) -> None:
        self._intake.ask_more()
        if self._clock() >= self._look_for_partitions_at:
            self._look_for_partitions_at = self._clock() + PARTITIONS_INTERVAL
            consumer.add(self.client.get_topic_partitions(self._topics.tasks))

    def _mend(self) -> bool:
        """Make anew what has been without a connection for a while, if the broker lets us in.

        What still works is left alone: the broker would hand out again all that a consumer works on.

        Returns: False if nothing works, so that all of it is to be made anew.
        """
        refusal = self._refusal()
        if refusal:
            self._post(BrokerDown(refusal))
            return True
        has_consumer, has_records = self._is_consumer_up(), self.records.is_connected()
        if not has_records and (self.consumer is None or not has_consumer):
            return False
        try:
            if not has_records:
                old, self.records = self.records, open_records(self.client, self._topics.records)
                old.close()
            elif not has_consumer:
                self._intake.detach()
                old, self.consumer = self.consumer, None
                old.close()
        except self._library.PulsarException as error:
            self._post(BrokerDown(self._explain(error, are_records_open=has_records)))
        return True

    def _is_consumer_up(self) -> bool:
        consumer = self.consumer
        return consumer is None or bool(consumer.is_connected())

    def _has_to_act(self) -> bool:
        return self._stopping.is_set() or self._leave is not None or (self.consumer is None and self._needs_consumer())

    def _needs_consumer(self) -> bool:
        return self._intake.is_wanted() and self._clock() >= self._away_until

    def _subscribe(self, listener: Listener) -> Any:
        partitions = self.client.get_topic_partitions(self._topics.tasks)
        if partitions == [self._topics.tasks]:
            return self._subscribe_to(self._topics.tasks, listener)
        about = {"event": "partitions", "partitions": len(partitions)}
        text = "the topic has %d partitions: as many messages more than the cap may be at this node, for a second each"
        log.info(text, len(partitions), extra=about)
        self._look_for_partitions_at = self._clock() + PARTITIONS_INTERVAL
        consumer = PartitionedConsumer(self._subscribe_to, listener)
        consumer.add(partitions)
        return consumer

    def _subscribe_to(self, topic: str, listener: Listener) -> Any:
        def arrived(consumer: Any, message: Any) -> None:
            keep_thread_state()
            listener(consumer, message)

        return self.client.subscribe(
            topic,
            self._topics.subscription,
            consumer_type=self._library.ConsumerType.Shared,
            initial_position=self._library.InitialPosition.Earliest,
            message_listener=arrived,
            receiver_queue_size=1,
            negative_ack_redelivery_delay_ms=LIBRARY_NAK_DELAY,
            batch_index_ack_enabled=True,  # a batch that comes again comes without what was acked, if the broker can
        )

    def _drop(self) -> None:
        self._intake.detach()
        client, self.client = self.client, None
        self.consumer = self.records = None
        if client is not None:
            close_client(client, self._library)

    def _explain(self, error: Exception, *, are_records_open: bool) -> str:
        """Return why it could not connect, for a person.

        The library reports Timeout both for a refused token and for a broker that is away. The handshake shows which it
        is.

        Args:
            error: what the library raised.
            are_records_open: the records' topic, which is opened first, was opened; it was the topic of the tasks.
        """
        if isinstance(error, self._library.AuthorizationError):
            right = f"consume from {short_name(self._topics.tasks)}"
            if not are_records_open:
                right = f"produce to {short_name(self._topics.records)} (RES_TOPIC_NAME)"
            return f"the token has no right to {right}; grant it, and the node goes on by itself"
        return self._refusal() or describe(error)

    def _refusal(self) -> str:
        """Return why the broker does not let us in, for a person; "" if it does."""
        try:
            with Session(self._access, EXPLAIN_TIME):
                return ""
        except NoConnection as refusal:
            return f"{refusal.reason}; {refusal.advice}"


class LossTimer:
    """When to act on a lost connection: LOST_TIME after the loss, then every ASK_INTERVAL seconds."""

    def __init__(self) -> None:
        self._due = float("inf")  # monotonic

    def is_due(self, now: float, is_up: bool) -> bool:
        """Return True if it is time; called again and again with the state of the connection."""
        if is_up:
            self._due = float("inf")
        elif self._due == float("inf"):
            self._due = now + LOST_TIME
        elif now >= self._due:
            self._due = now + ASK_INTERVAL
            return True
        return False
