"""`--check`: is there a broker, does it let us in, may we take tasks and store records? Nobody is disturbed by it.

The right to take tasks is tried on the very subscription that the node uses, because rights can be given for each
subscription by itself. The consumer has a receiver queue of 0 and never receives, so that the broker hands it nothing
(seen on 4.0.8: a waiting message stayed with the broker, its redelivery count at 0). It makes the subscription where
there is none yet, at the earliest message, as the node's own start would. The producer sends nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pulsar

from supervisor.broker.handshake import NoEntry, Session
from supervisor.check.findings import Check, Context, Finding, Mark

ENTRY_TIME = 5.0  # seconds for the broker to let us in
OPERATION_TIMEOUT = 6  # seconds for each of the library's operations, tried at the same time
NAME, TAKES, STORES = "broker", "broker: tasks", "broker: records"


def checks() -> list[Check]:
    """What is looked at."""
    return [Check((NAME,), entry), Check((TAKES,), takes), Check((STORES,), stores)]


def entry(context: Context) -> Iterator[Finding]:
    """Whether it lets us in."""
    settings = context.settings
    try:
        with Session(settings.pulsar_url, settings.pulsar_token, min(ENTRY_TIME, context.left())) as session:
            context.lets_in.set_result(True)
            token = "takes the token" if settings.pulsar_token else "asks for no token"
            yield Finding(NAME, Mark.OK, f"{session.version or 'a broker'} at {session.address} {token}")
    except NoEntry as error:
        context.lets_in.set_result(False)
        yield Finding(NAME, Mark.FAULT, f"no connection to Pulsar: {error.said}", error.advice)


def takes(context: Context) -> Iterator[Finding]:
    """Whether tasks may be taken."""
    topic, subscription = context.settings.topic, context.settings.subscription
    name = f"subscription {subscription}"

    def subscribe(client: Any, part: str = "") -> None:
        client.subscribe(
            topic + part,
            subscription,
            consumer_type=pulsar.ConsumerType.Shared,
            receiver_queue_size=0,
            initial_position=pulsar.InitialPosition.Earliest,
        )

    def try_it(client: Any) -> None:
        try:
            subscribe(client)
        except pulsar.InvalidConfiguration:  # a partitioned topic takes no queue of 0; its first part does
            subscribe(client, "-partition-0")

    yield from operation(context, TAKES, name, "consume", try_it)


def stores(context: Context) -> Iterator[Finding]:
    """Whether records may be stored."""
    topic = context.settings.res_topic_name

    def try_it(client: Any) -> None:
        client.create_producer(topic)

    yield from operation(context, STORES, f"topic {topic}", "produce", try_it)


def operation(
    context: Context, name: str, what: str, right: str, try_it: Callable[[Any], None]
) -> Iterator[Finding]:
    """Try it, and say how that went.

    Args:
        what: what it is tried on, in words.
        right: what Pulsar calls the right to it.
    """
    if not context.known(context.lets_in, False):
        yield Finding(name, Mark.NONE, "not without a connection")
        return
    done = {"consume": "may take tasks from", "produce": "may store records in"}[right]
    try:
        with connected(context) as client:
            try_it(client)
            yield Finding(name, Mark.OK, f"{done} {what}")
    except pulsar.AuthorizationError:
        yield Finding(
            name, Mark.FAULT, f"the token's role may not {right} on {what}", f"grant it the right to {right} there"
        )
    except pulsar.TopicNotFound:
        advice = "create it, or allow the broker to create topics (allowAutoTopicCreation)"
        yield Finding(name, Mark.FAULT, f"{what}: its topic does not exist", advice)
    except pulsar.ConsumerBusy:
        advice = "stop who uses it in another way than Shared, or delete the subscription"
        yield Finding(name, Mark.FAULT, f"{what} is in use, and not as a Shared one", advice)
    except pulsar.PulsarException as error:
        said = f"{what}: {str(error).removeprefix('Pulsar error: ')}"
        yield Finding(name, Mark.FAULT, said, "look at the broker's log")


@contextmanager
def connected(context: Context) -> Iterator[Any]:
    """A client of the library's, as the node makes it."""
    settings = context.settings
    client = pulsar.Client(
        settings.pulsar_url,
        authentication=pulsar.AuthenticationToken(settings.pulsar_token) if settings.pulsar_token else None,
        operation_timeout_seconds=OPERATION_TIMEOUT,
        logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
        tls_validate_hostname=True,
    )
    try:
        yield client
    finally:
        client.close()
