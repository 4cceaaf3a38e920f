"""Sends messages and reports what became of each: billing records, and dead letters on a producer of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from supervisor.broker.library import describe, keep_thread_state
from supervisor.events import Stored

SEND_TIMEOUT = 30_000  # milliseconds after which the library gives up a message that the broker has not stored
MAX_PENDING = 10_000  # records in the library's hands; far above any cap
KEPT = "kept"  # the subscription that keeps dead letters until a person has read them
NOT_CONNECTED = "not connected"
# Bytes that are kept of a letter that is too large for the broker even compressed; the next if that is too large, too.
CUT_TO = (1024 * 1024, 64 * 1024, 0)

Post = Callable[[Stored], None]


def open_records(client: Any, topic: str) -> Any:
    """Return a producer for billing records."""
    return client.create_producer(
        topic,
        send_timeout_millis=SEND_TIMEOUT,
        block_if_queue_full=False,
        max_pending_messages=MAX_PENDING,
        batching_enabled=True,
        batching_max_publish_delay_ms=1,
    )


def send_record(library: Any, producer: Any, post: Post, number: int, record: bytes) -> None:
    """Send a billing record without waiting. Stored is posted for it in any case, from any thread.

    Args:
        library: the module `pulsar`, or a fake of it.
        producer: None if there is no connection.
    """

    def done(result: Any, _id: object) -> None:
        keep_thread_state()
        post(Stored(number, fault_of(library, result)))

    if producer is None:
        post(Stored(number, NOT_CONNECTED))
        return
    try:
        producer.send_async(record, done)
    except library.PulsarException as error:
        post(Stored(number, describe(error)))


def fault_of(library: Any, result: Any) -> str:
    """Return why the broker has not stored a message, in the library's word; "" if it has."""
    return "" if result == library.Result.Ok else str(result).removeprefix("Result.")


class DeadLetters:
    """The producer for dead letters. It is made when the first letter comes, because few nodes ever need it.

    Args:
        library: the module `pulsar`, or a fake of it.
        topic: where the letters go.
        post: takes events from any thread.
        client: returns the client at this moment, or None without a connection.
    """

    def __init__(self, library: Any, topic: str, post: Post, client: Callable[[], Any]) -> None:
        self._library = library
        self._topic = topic
        self._post = post
        self._client = client
        self._producer: Any = None
        self._producer_of: Any = None  # the client that the producer belongs to
        self._is_opening = False
        self._waiting: queue.SimpleQueue[tuple[int, bytes, dict[str, str]]] = queue.SimpleQueue()

    def send(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        """Send a letter without waiting; Stored is posted for it. Called by the owner's thread."""
        self._waiting.put((number, payload, properties))
        client = self._client()
        if client is not None and client is self._producer_of:
            self._send_waiting("")
        elif not self._is_opening:
            self._is_opening = True
            threading.Thread(target=self._open, name="dead-letters", daemon=True).start()

    def _open(self) -> None:
        """Make the producer, in a thread of its own: it takes several round trips."""
        fault, client, library = NOT_CONNECTED, self._client(), self._library
        try:
            if client is not None:
                # A broker may delete a topic without a subscription, letters and all; a producer makes none.
                client.subscribe(
                    self._topic,
                    KEPT,
                    consumer_type=library.ConsumerType.Shared,
                    initial_position=library.InitialPosition.Earliest,
                    receiver_queue_size=1,
                ).close()
                self._producer = client.create_producer(
                    self._topic,
                    send_timeout_millis=SEND_TIMEOUT,
                    block_if_queue_full=False,
                    compression_type=library.CompressionType.ZSTD,  # the task may have come compressed, and be larger
                )
                self._producer_of, fault = client, ""
        except Exception as error:  # the edge of this thread: the letters are reported as not stored, and tried again
            fault = describe(error)
        self._is_opening = False
        self._send_waiting(fault)

    def _send_waiting(self, fault: str) -> None:
        """Send the letters that wait, or report of each why that is not possible."""
        while not self._waiting.empty():
            try:
                number, payload, properties = self._waiting.get_nowait()
            except queue.Empty:  # the other thread was faster
                return
            if fault:
                self._post(Stored(number, fault, True))
            else:
                self._send(number, payload, properties, CUT_TO)

    def _send(self, number: int, payload: bytes, properties: dict[str, str], cuts: tuple[int, ...]) -> None:
        """Send a letter. One that is too large for the broker is cut, and says so in its property `cut`: else it would
        be sent in vain for ever, and its task never acked.
        """

        def done(result: Any, _id: object) -> None:
            if result == self._library.Result.MessageTooBig and cuts:
                note = properties.get("cut") or f"only the first bytes of {len(payload)}"
                self._send(number, payload[: cuts[0]], {**properties, "cut": note}, cuts[1:])
            else:
                self._post(Stored(number, fault_of(self._library, result), True))

        try:
            self._producer.send_async(payload, done, properties=properties)
        except self._library.PulsarException as error:
            self._post(Stored(number, describe(error), True))
