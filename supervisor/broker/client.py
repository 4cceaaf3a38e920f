"""The counter: takes messages in, and stamps them done or to be handed out again. The only file that imports pulsar.

Threads: one receives (and connects, as often as it takes); the library's own call back when a record is stored. Both
only post events to the owner, which alone calls everything else here. Facts behind the odd-looking parts:
pulsar-client 3.13, each measured on a real broker (docs/decisions/0003-broker.md).
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pulsar

from supervisor.broker.handshake import NoEntry, Session
from supervisor.events import BrokerDown, BrokerUp, Entry, Event, MessageKey, Received, RetryHere, Stored
from workernode.settings import Settings

OPERATION_TIMEOUT = 10  # seconds until an attempt to connect or subscribe has failed
RECEIVE_TIME = 250  # milliseconds of one receive: how soon the thread notices that it is to stop
# A nak is handed to the library only when it is due, in bursts this far apart: its own timer starts anew at every nak,
# so that a steady trickle of naks would never be redelivered at all.
NAK_BURST = 0.25  # seconds
LIBRARY_NAK_DELAY = 100  # milliseconds: the library's floor
RETRY_FIRST, RETRY_LONGEST = 0.5, 10.0  # seconds between attempts to connect
SEND_TIMEOUT = 30_000  # milliseconds after which a record that is not stored is sent anew
EXPLAIN_TIME = 5.0  # seconds for finding out why it could not connect
KEPT = "kept"  # the subscription that keeps dead letters until a person has looked at them
LEAVE_TIME = 2.0  # seconds that the receiving thread gets to leave; it looks every RECEIVE_TIME
FLUSH_TIME = 3.0  # seconds that a node that stops gives to records on their way
MAX_PENDING = 10_000  # records in the library's hands; far above any cap


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of spec 1.1, 1.4 and 4."""

    tasks: str
    subscription: str
    records: str
    dead_letters: str

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """Return the names for this node's model."""
        tasks = f"model-{settings.model_name}"
        subscription = f"{tasks}-subscription"
        return cls(tasks, subscription, settings.res_topic_name, f"{tasks}-{subscription}-DLQ")


class Batches(Protocol):
    """What is known of the batches that messages came in. The ledger, to the broker."""

    def has_mates(self, key: MessageKey) -> bool:
        """Is a message that came in the same batch being worked on here?"""

    def has_answered_mates(self, key: MessageKey) -> bool:
        """Was a message that came in the same batch answered here?"""


class Broker:
    """The connection to Pulsar. Everything but `post` is called by the owner's thread.

    Args:
        settings: where, with which token, which model.
        post: takes events from any thread.
    """

    def __init__(self, settings: Settings, post: Callable[[Event], None]) -> None:
        self._settings = settings
        self._post = post
        self.topics = Topics.of(settings)
        # Counts of messages since the start, so that "how many more" cannot be misread while one is on its way.
        self._allowed = 0  # how many may have been taken in all
        self._taken = 0  # how many the receiving thread has taken
        self._seen = 0  # how many of them the owner has seen
        self._aside: tuple[int, float] | None = None  # after so many messages leave the subscription, until (monotonic)
        self._away = False
        self._turn = threading.Condition()
        self._stopping = threading.Event()
        self._client: pulsar.Client | None = None
        self._consumer: pulsar.Consumer | None = None
        self._records: pulsar.Producer | None = None
        self._letters: pulsar.Producer | None = None
        self._waiting_letters: queue.SimpleQueue[tuple[int, bytes, dict[str, str]]] = queue.SimpleQueue()
        self._opening_letters = False
        self._naks: list[tuple[float, Received]] = []  # due (monotonic), message
        self._last_burst = 0.0
        self._newest: dict[int, tuple[int, int]] = {}  # ledger and entry of the message seen last, by partition
        self._nothing_after = 0  # messages taken when there was no further one for a while
        self._log = _quiet_logger()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Begin to connect; BrokerUp is posted when messages can be taken."""
        self._thread.start()

    # --- intake ---

    def allow(self, count: int) -> None:
        """Let so many more messages be taken, beyond those that the owner has seen. One under way cannot be called
        back.
        """
        allowed = self._seen + max(0, count)
        if allowed != self._allowed:
            with self._turn:
                self._allowed = allowed
                self._turn.notify()

    def seen(self, received: Received) -> None:
        """The owner has seen a Received."""
        self._seen += 1
        if self._naks:  # it came by itself, after a lost connection: sent back now, it would run at two nodes
            self._naks = [nak for nak in self._naks if nak[1].key != received.key]
        ledger, entry, partition, _ = received.key
        self._newest[partition] = (ledger, entry)

    def step_aside(self, seconds: float) -> None:
        """Leave the subscription for so long: what is sent back then goes to other nodes, and not half of it to this
        one again. Nothing may be at this node: the broker hands out at once what a consumer leaves unacknowledged. One
        message more that was taken meanwhile undoes the request.
        """
        with self._turn:
            self._aside = (self._seen, time.monotonic() + seconds)
            self._turn.notify()

    # --- decisions ---

    def ack(self, message: Any) -> None:
        """Tell the broker that it may forget the message. Lost where the connection is; it then comes again."""
        consumer = self._consumer
        if consumer is not None:
            try:
                consumer.acknowledge(message)
            except pulsar.PulsarException:
                pass  # closed: the broker hands it out again, and the ledger knows it

    def nak(self, received: Received, delay_s: float) -> None:
        """Have the broker hand the message out again after so many seconds."""
        self._naks.append((time.monotonic() + delay_s, received))

    def burst(self, now: float, batches: Batches, everything: bool = False) -> None:
        """Give the naks that are due to the library, in one burst.

        A batch comes back as a whole, to any node. So of a batch none is sent back while others of it are at this node,
        and none at all once one was answered: it is tried again here (RetryHere).

        Args:
            batches: what is known of them.
            everything: the node leaves, and nothing is being worked on: all goes back, whatever comes with it.
        """
        if not everything and now < self.next_burst():
            return
        self._last_burst = now
        early = {received.key[:3] for at, received in self._naks if at > now}  # batches in which one is not due yet
        naks, self._naks = self._naks, []
        for at, received in naks:
            if not everything and (at > now or self._in_part(received.key, early, batches)):
                self._naks.append((at, received))
            elif not everything and received.key[3] >= 0 and batches.has_answered_mates(received.key):
                self._post(RetryHere(received))
            elif self._consumer is not None:
                self._consumer.negative_acknowledge(received.message)

    def _in_part(self, key: MessageKey, early: set[Entry], batches: Batches) -> bool:
        """Whether others of its batch are here, or may still be in the library's hands."""
        ledger, entry, partition, place = key
        if place < 0:
            return False  # no batch
        may_go_on = self._newest.get(partition) == (ledger, entry) and self._nothing_after != self._seen
        return may_go_on or key[:3] in early or batches.has_mates(key)

    @property
    def held_naks(self) -> int:
        """Messages sent back whose delay is not over."""
        return len(self._naks)

    def next_burst(self) -> float:
        """Monotonic time at which `burst` has something to do."""
        if not self._naks:
            return float("inf")
        return max(min(at for at, _ in self._naks), self._last_burst + NAK_BURST)

    def publish_record(self, number: int, record: bytes) -> None:
        """Send a billing record; Stored(number, ...) tells when it is safely with the broker, or why not."""
        self._send(self._records, number, record, None, False)

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        """Send a message to the dead-letter topic; Stored(number, ..., dead_letter=True) tells."""
        self._waiting_letters.put((number, payload, properties))
        if self._letters is not None:
            self._post_letters("")
        elif not self._opening_letters:  # made when first needed, and not by the owner's thread: it takes its time
            self._opening_letters = True
            threading.Thread(target=self._open_letters, name="dead-letters", daemon=True).start()

    def _open_letters(self) -> None:
        fault, client = "not connected", self._client
        try:
            if client is not None:
                # A topic without a subscription may be dropped, letters and all; the library's producer makes none.
                client.subscribe(
                    self.topics.dead_letters,
                    KEPT,
                    consumer_type=pulsar.ConsumerType.Shared,
                    initial_position=pulsar.InitialPosition.Earliest,
                    receiver_queue_size=1,
                ).close()
                self._letters = client.create_producer(
                    self.topics.dead_letters, send_timeout_millis=SEND_TIMEOUT, block_if_queue_full=False
                )
                fault = ""
        except Exception as exc:  # the edge of this thread: a letter that cannot leave is told, and tried again
            fault = _words(exc)
        self._opening_letters = False
        self._post_letters(fault)

    def _post_letters(self, fault: str) -> None:
        """Send the letters that wait, or say of each why that cannot be."""
        while not self._waiting_letters.empty():
            try:
                number, payload, properties = self._waiting_letters.get_nowait()
            except queue.Empty:
                return
            if fault:
                self._post(Stored(number, fault, True))
            else:
                self._send(self._letters, number, payload, properties, True)

    def connected(self) -> bool:
        """True while messages can be taken and records stored."""
        consumer, records = self._consumer, self._records
        if records is None or not records.is_connected():
            return False
        return self._away or (consumer is not None and bool(consumer.is_connected()))

    def flush(self) -> None:
        """Wait, for a while, until what was sent is stored; Stored has then been posted for it."""
        if self._records is not None:
            _bounded(self._records.flush, FLUSH_TIME)

    def close(self) -> None:
        """Send what is pending and leave. What was not acked is handed out again by the broker at once."""
        self._stopping.set()
        with self._turn:
            self._turn.notify()
        if self._consumer is not None:
            self._thread.join(LEAVE_TIME)
        client = self._client
        if client is not None:  # a thread that still connects is freed by this, and would else keep us for its timeout
            _bounded(lambda: _close(client), FLUSH_TIME)
        self._thread.join(LEAVE_TIME)

    def _send(
        self,
        producer: pulsar.Producer | None,
        number: int,
        data: bytes,
        properties: dict[str, str] | None,
        letter: bool,
    ) -> None:
        if producer is None:
            self._post(Stored(number, "not connected", letter))
            return

        def stored(result: pulsar.Result, _id: object) -> None:
            self._post(
                Stored(number, "" if result == pulsar.Result.Ok else str(result).removeprefix("Result."), letter)
            )

        try:
            producer.send_async(data, stored, properties=properties)
        except pulsar.PulsarException as exc:
            self._post(Stored(number, _words(exc), letter))

    # --- the receiving thread ---

    def _run(self) -> None:
        pause = RETRY_FIRST
        while not self._stopping.is_set():
            if fault := self._entry():  # told at once: the library needs its whole timeout to say that nobody is there
                self._post(BrokerDown(fault))
            try:
                self._connect()
            except Exception as exc:  # the edge of this thread: whatever it is, it is told and tried again
                self._drop()
                self._post(BrokerDown(self._explain(exc)))
                self._stopping.wait(pause)
                pause = min(pause * 2, RETRY_LONGEST)
                continue
            pause = RETRY_FIRST
            self._post(BrokerUp())
            self._receive()

    def _explain(self, exc: Exception) -> str:
        """Why it could not connect, for a person. The library says Timeout to a refused token and to a broker that is
        away alike; the first frames of the protocol, spoken by hand, tell them apart.
        """
        if isinstance(exc, pulsar.AuthorizationError):
            names = f"{self.topics.tasks} (consume), {self.topics.records} (produce)"
            return f"the token has no right on one of the topics: {names}; grant it, and the node goes on by itself"
        return self._entry() or _words(exc)

    def _entry(self) -> str:
        """Why the broker does not let us in, in words; "" where it does."""
        try:
            with Session(self._settings.pulsar_url, self._settings.pulsar_token, EXPLAIN_TIME):
                return ""
        except NoEntry as entry:
            return f"{entry.said}; {entry.advice}"

    def _connect(self) -> None:
        token = self._settings.pulsar_token
        client = self._client = pulsar.Client(
            self._settings.pulsar_url,
            authentication=pulsar.AuthenticationToken(token) if token else None,
            operation_timeout_seconds=OPERATION_TIMEOUT,
            connection_timeout_ms=5000,
            logger=self._log,
            tls_validate_hostname=True,
        )
        # The records' topic first: what cannot be billed must not be taken (spec 4).
        self._records = client.create_producer(
            self.topics.records,
            send_timeout_millis=SEND_TIMEOUT,
            max_pending_messages=MAX_PENDING,
            block_if_queue_full=False,
            batching_enabled=True,
            batching_max_publish_delay_ms=1,
        )
        self._consumer = self._subscribe(client)

    def _subscribe(self, client: pulsar.Client) -> pulsar.Consumer:
        return client.subscribe(
            self.topics.tasks,
            self.topics.subscription,
            consumer_type=pulsar.ConsumerType.Shared,
            initial_position=pulsar.InitialPosition.Earliest,
            receiver_queue_size=1,
            negative_ack_redelivery_delay_ms=LIBRARY_NAK_DELAY,
            batch_index_ack_enabled=True,  # a batch that comes again comes without what was acked, if the broker can
        )

    def _receive(self) -> None:
        """Take a message whenever the owner allows one. Returns when the consumer is of no use any more."""
        while not self._stopping.is_set():
            with self._turn:
                self._turn.wait_for(lambda: self._taken < self._allowed or self._aside or self._stopping.is_set())
                aside, self._aside = self._aside, None
            try:
                if aside is not None and aside[0] == self._taken:
                    self._stay_away(aside[1])
                consumer = self._consumer
                assert consumer is not None
                while self._taken < self._allowed and not self._aside and not self._stopping.is_set():
                    message = consumer.receive(RECEIVE_TIME)
                    self._taken += 1
                    self._post(_received(message))
            except pulsar.Timeout:
                self._nothing_after = self._taken
                continue
            except pulsar.PulsarException as exc:
                self._post(BrokerDown(_words(exc)))
                self._drop()
                return

    def _stay_away(self, until: float) -> None:
        """Close the consumer, and open it anew when the time has come."""
        assert self._client is not None
        assert self._consumer is not None
        self._away = True
        try:
            consumer, self._consumer = self._consumer, None
            consumer.close()
            self._stopping.wait(max(0.0, until - time.monotonic()))
            self._consumer = self._subscribe(self._client)
        finally:
            self._away = False

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._consumer = self._records = self._letters = None
        if client is not None:
            _close(client)


def _received(message: Any) -> Received:
    place = message.message_id()
    return Received(
        message=message,
        key=(place.ledger_id(), place.entry_id(), place.partition(), place.batch_index()),
        payload=message.data(),
        published=message.publish_timestamp() / 1000,
        received=time.time(),
        received_at=time.monotonic(),
        redeliveries=message.redelivery_count(),
    )


def _bounded(deed: Callable[[], None], limit: float) -> None:
    """Do it, but wait no longer: a broker that does not answer must not keep a node that stops alive."""

    def guarded() -> None:
        try:
            deed()
        except pulsar.PulsarException:
            pass  # what was not stored is not acked, and comes again

    thread = threading.Thread(target=guarded, name="broker-close", daemon=True)
    thread.start()
    thread.join(limit)


def _close(client: pulsar.Client) -> None:
    try:
        client.close()
    except pulsar.PulsarException:
        pass  # it was of no use, which is why it is closed


def _words(exc: Exception) -> str:
    """What a person reads of a failure of the library: its kind, which the text repeats."""
    text = str(exc).removeprefix("Pulsar error: ")
    return f"{type(exc).__name__} ({text})" if text and text != type(exc).__name__ else type(exc).__name__


def _quiet_logger() -> Any:
    """The library writes its log to standard output by itself, which is ours; a logger in Python can deadlock with
    it.
    """
    return pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull)
