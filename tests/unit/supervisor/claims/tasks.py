"""A task on its way: its client, which checks everything that it sees, its message, and its place at a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.events import Received

if TYPE_CHECKING:
    from tests.unit.supervisor.claims.node import Node


class Violation(AssertionError):
    """A client has seen what it must not see."""


@dataclass
class Client:
    """Who waits for the stream of one task."""

    request_id: str
    text_from: str = ""  # the node of which it has a text
    is_ended: bool = False
    can_miss_end: bool = False  # the node that was allowed to end it was killed

    def frame(self, node: str) -> None:
        """A frame with text comes."""
        if self.is_ended:
            raise Violation(f"{self.request_id}: a frame of {node} after the end")
        if self.text_from not in ("", node):
            raise Violation(f"{self.request_id}: text of {self.text_from}, then of {node}")
        self.text_from = node

    def end(self, node: str) -> None:
        """The end comes."""
        if self.is_ended:
            raise Violation(f"{self.request_id}: {node} ends it once more")
        self.is_ended = True


@dataclass
class Message:
    """A task in the topic of tasks."""

    client: Client
    published: float
    place: int  # in the topic
    at: Node | None = None  # the broker's view: the node that has it
    is_acked: bool = False


@dataclass
class Task:
    """A message at a node."""

    message: Message
    number: int
    received: Received
    is_running: bool = False
    has_begun: bool = False
    is_rejection: bool = False
    asked: str = ""  # "begin" or "end": the grant that it has asked for last
    waits_for: str = ""  # the same, until it is granted
    until: float = 0.0  # when its text is over
    is_lost: bool = False
    lapses: int = 0  # of the lease, when it asked last
