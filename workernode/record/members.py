"""The members of a record, as the node knows them. A leaf.

The parts that are made for each record are NamedTuples: a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from workernode.prices import Cost
from workernode.protocol import Decision, Durations


@dataclass(frozen=True, slots=True)
class Node:
    """The node that served the task."""

    id: str  # unique to this run of the node: with the delivery's number it makes the idempotency key
    host: str
    type: str  # `remote` or `local`
    version: str
    worker: int | None = None  # number of the worker process; None: no worker took part


class Client(NamedTuple):
    """The client, as far as the gateway passed it on."""

    user_agent: str | None = None
    address: str | None = None
    user: str | None = None  # `user` of the request: the client's own name for its user
    key_id: str | None = None  # distinguishes clients by their keys, without holding any part of a key


class Request(NamedTuple):
    """The request: sizes and settings, no text."""

    stream: bool | None = None
    messages: int | None = None
    bytes: int | None = None  # of the whole task
    tools: int | None = None
    response_format: str | None = None
    settings: Mapping[str, int | float | str] = MappingProxyType({})  # max_tokens, temperature, ...
    changed: tuple[str, ...] = ()  # what the operator's guards changed, dotted names


class Times(NamedTuple):
    """When things happened, in seconds since the epoch; None: it did not come to that."""

    published: float | None = None
    received: float | None = None
    upstream_sent: float | None = None  # the last time upstream was asked
    first_token: float | None = None
    upstream_done: float | None = None
    answered: float | None = None  # the gateway had the whole answer


class Error(NamedTuple):
    """What went wrong; no text in it looks like a key. Made by readers.error_of."""

    type: str | None
    code: str | None
    message: str | None


class Resume(NamedTuple):
    """A stream broke, and went on in another call to upstream."""

    reason: str  # the fault's code, or "worker_died"
    at: float  # seconds since the epoch
    after_tokens: int  # that the client had then


@dataclass(frozen=True, slots=True)
class Record:
    """What one record holds. The members without a default are always known, even if the worker died."""

    request_id: str  # "" where the message could not be read
    delivery: int  # the number of the job
    node: Node
    status: str  # a row of spec 4
    decision: Decision
    model: str | None = None  # the model asked for
    upstream_model: str | None = None  # the model that answered
    ai_model_name: str | None = None
    ai_model_namespace: str | None = None
    usage: Mapping[str, Any] | None = None  # as upstream sent it
    usage_source: str = "none"  # `upstream`, `counted`, `estimated` or `none`
    client: Client = field(default_factory=Client)
    request: Request = field(default_factory=Request)
    times: Times = field(default_factory=Times)
    durations: Durations = field(default_factory=Durations)
    attempts: int = 0
    redeliveries: int = 0
    end_reason: str | None = None  # upstream's finish_reason, or why it ended without one
    http_status: int | None = None  # upstream's last; None or 0: no answer came
    error: Error | None = None
    cost: Cost | None = None  # by PRICES; None: no prices, no usage, or no price for the model
    resumes: tuple[Resume, ...] = ()  # the breaks after which the stream went on
    trace_id: str | None = None  # W3C: 32 hexadecimal digits
    supersedes: str | None = None  # the id of the node that had the task before, and is gone; None: none had
