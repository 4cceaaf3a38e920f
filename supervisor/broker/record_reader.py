"""Reads the topic of the billing records, from a moment on. Readers take no record away."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pulsar

from supervisor.broker.access import Access
from supervisor.broker.handshake import NoConnection, Session
from supervisor.broker.library import close_client, open_client, run_bounded

ENTRY_TIME = 8.0  # seconds for a broker to let us in and to list its topics
OPERATION_TIMEOUT = 10  # seconds for the library's operations
TICK = 250  # milliseconds of one wait for a record: Ctrl-C works after that at the latest
SILENCE = 15.0  # seconds without the record that is known to be there, after which reading fails
CLOSE_TIME = 3.0  # seconds


class NoRecords(Exception):
    """The topic cannot be read. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Published:
    """One message of the topic."""

    data: bytes
    at: float  # seconds since the epoch: when it was published; all of a batch when its first was


def read_records(access: Access, topic: str, since: float, *, follow: bool) -> Iterator[Published | None]:
    """Yield what was published since a moment, oldest first (of a partitioned topic, each part by itself).

    Args:
        access: where the broker is.
        topic: persistent://tenant/namespace/name.
        since: seconds since the epoch.
        follow: go on with what is published from now on, for ever; a None comes every quarter of a second of waiting.

    Raises:
        NoConnection: the broker cannot be reached, or refuses us.
        NoRecords: there is no such topic, or we may not read it.
    """
    with Session(access, ENTRY_TIME) as session:
        check_exists(session, topic)
    client = open_client(access, OPERATION_TIMEOUT)
    try:
        reader = open_reader(client, topic, since)
        yield from follow_on(reader, since) if follow else to_the_end(reader, since)
    finally:
        run_bounded(lambda: close_client(client), CLOSE_TIME)  # a broker that is away keeps nobody waiting


def check_exists(session: Session, name: str) -> None:
    """Make sure that the topic exists, because a broker that is asked to read one that does not creates it.

    Raises:
        NoRecords: it does not exist.
    """
    namespace, _, short = name.partition("://")[2].rpartition("/")
    listed = session.topics(namespace)
    if listed is None:  # the broker does not list them; the reader will find out
        return
    known = {each.partition("-partition-")[0] for each in listed}
    if name in known or name in listed:
        return
    near = difflib.get_close_matches(short, [each.rpartition("/")[2] for each in known], 3)
    hint = f"; it has {', '.join(near)}" if near else ""
    raise NoRecords(
        f"the broker at {session.address} has no topic {name}{hint}: no node has written a record there yet, "
        "or RES_TOPIC_NAME (--topic) is another one"
    )


def open_reader(client: pulsar.Client, name: str, since: float) -> Any:
    """Return a reader that begins with what was published at this moment.

    Raises:
        NoRecords: it may not be read.
    """
    try:
        reader = client.create_reader(name, pulsar.MessageId.earliest, reader_name="workernode-records")
        reader.seek(max(0, int(since * 1000)))
    except pulsar.AuthorizationError:
        why = "the token's role may not read it; grant it the right to consume, or take another PULSAR_TOKEN"
        raise NoRecords(f"{name}: {why}") from None
    except pulsar.PulsarException as error:
        raise NoRecords(f"{name} cannot be read ({error}); look at the broker's log") from None
    return reader


def to_the_end(reader: Any, since: float) -> Iterator[Published]:
    """Yield what the topic has now, and nothing that is published later."""
    end = time.time()
    silent_until = time.monotonic() + SILENCE
    while has_more(reader):
        if (message := read(reader)) is None:
            if time.monotonic() > silent_until:
                raise lost()
            continue
        silent_until = time.monotonic() + SILENCE
        if message.at > end:
            return
        if message.at >= since:
            yield message


def follow_on(reader: Any, since: float) -> Iterator[Published | None]:
    """Yield what the topic has and what comes. If the connection is lost, the library connects again by itself."""
    while True:
        message = read(reader)
        if message is None or message.at >= since:
            yield message


def has_more(reader: Any) -> bool:
    """Return True if the topic has a message that was not read yet."""
    try:
        return bool(reader.has_message_available())
    except pulsar.PulsarException as error:
        raise lost(f" ({error})") from None


def read(reader: Any) -> Published | None:
    """Return the next message, or None if none came within TICK."""
    try:
        message = reader.read_next(TICK)
    except pulsar.Timeout:
        return None
    except pulsar.PulsarException as error:
        raise lost(f" ({error})") from None
    return Published(message.data(), message.publish_timestamp() / 1000)


def lost(why: str = "") -> NoConnection:
    """Return the error for a connection that ended while records were read."""
    return NoConnection(f"it was lost while records were read{why}", "try again when the broker is back")
