"""What the connections of the development gateway share: the waiting clients, the counts, and the way to the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devstack.gateway.waiting import Waiting

# How long a plain request waits for its answer, and how long a stream may be silent before a comment keeps it open.
PLAIN_WAIT_S = 300.0
KEEP_ALIVE_S = 30.0

# Puts a payload on a topic and returns when the broker has it.
Publish = Callable[[str, bytes], None]


class GatewayState:
    """The state of one gateway. Its parts are safe to use from every connection's thread.

    Args:
        publish: puts a task on a topic. What it raises becomes the client's 500.
        plain_wait_s, keep_alive_s: the platform's times; shorter in tests.
    """

    def __init__(
        self, publish: Publish, plain_wait_s: float = PLAIN_WAIT_S, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self.publish = publish
        self.plain_wait_s = plain_wait_s
        self.keep_alive_s = keep_alive_s
        self.address = ""  # host:port, known when the server listens
        self.plain = Waiting("published", "answered", "timed_out", "early", "unknown", "duplicate", "invalid")
        self.stream = Waiting(
            *("published", "connections", "chunks", "ended", "clients_gone"),
            *("early", "unknown", "after_end", "newlines", "invalid"),
        )

    def stats(self) -> dict[str, Any]:
        """Return what waits now and what was counted since the start, for plain requests and for streams.

        early: came before the id was registered. unknown: for an id that nobody waits for (any more). duplicate,
        after_end, newlines, invalid: errors of the node.
        """
        return {"plain": self.plain.counts(), "stream": self.stream.counts()}
