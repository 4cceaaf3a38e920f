"""Tries, without taking or sending a message, whether a node may take tasks and store records. For `--check`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pulsar

from supervisor.broker.access import Access
from supervisor.broker.claims_topic import SUBSCRIPTION
from supervisor.broker.library import close_client, open_client, subscribe_without_taking
from supervisor.broker.topics import Topics

OPERATION_TIMEOUT = 6  # seconds for each of the library's operations


class Answer(Enum):
    """What the broker answered."""

    ALLOWED = "allowed"
    NO_RIGHT = "no right"  # the token's role has no right to it
    NO_TOPIC = "no topic"  # the topic does not exist, and the broker does not create it
    BUSY = "busy"  # the subscription is in use, and not as a Shared one
    FAILED = "failed"  # anything else; the text names it


def may_take(access: Access, topics: Topics) -> tuple[Answer, str]:
    """Try to subscribe as a node does. The subscription is made if it does not exist, at the earliest message.

    The right is tried on the very subscription of the node, because Pulsar can grant rights for each by itself.

    Returns: the answer, and the library's text about it ("" if it is allowed).
    """
    return _try(access, lambda client: subscribe_without_taking(client, topics.tasks, topics.subscription))


def may_store(access: Access, topics: Topics) -> tuple[Answer, str]:
    """Try to make a producer for records. It sends nothing. Returns as `may_take`."""
    return _try(access, lambda client: client.create_producer(topics.records))


def may_claim(access: Access, topics: Topics) -> tuple[Answer, str]:
    """Try to subscribe to the topic of claims, and to make a producer for it. It sends nothing. Returns as `may_take`.
    """

    def operation(client: Any) -> None:
        subscribe_without_taking(client, topics.claims, SUBSCRIPTION)
        client.create_producer(topics.claims)

    return _try(access, operation)


def _try(access: Access, operation: Callable[[Any], object]) -> tuple[Answer, str]:
    client = open_client(access, OPERATION_TIMEOUT)
    try:
        operation(client)
    except pulsar.AuthorizationError as error:
        return Answer.NO_RIGHT, str(error)
    except pulsar.TopicNotFound as error:
        return Answer.NO_TOPIC, str(error)
    except pulsar.ConsumerBusy as error:
        return Answer.BUSY, str(error)
    except pulsar.PulsarException as error:
        return Answer.FAILED, str(error).removeprefix("Pulsar error: ")
    finally:
        close_client(client)
    return Answer.ALLOWED, ""
