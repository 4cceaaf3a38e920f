"""What upstream is asked for one task, and who waits for the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from workernode.net.connection import Watch


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What upstream is asked, and until when."""

    body: bytes
    body_without_options: Callable[[], bytes] | None  # makes it without `stream_options`; None for a plain request
    request_id: str
    deadline: float  # monotonic
    is_own_model: bool  # the task asks for the node's own model; if it is unknown, the node is set up wrongly
    with_usage: bool = False  # the client of a stream asked for the usage chunk
    choices: int = 1  # how many choices the client asked for (`n`)
    # Of this task alone, besides the node's own; one that the operator sets (UPSTREAM_HEADERS) is not overwritten.
    headers: Mapping[str, str] = field(default_factory=dict)
    # Seconds for which upstream may be silent before its answer begins. A fault only where the client is in the middle
    # of its stream (spec 4).
    longest_silence: float = float("inf")


class Client(Watch, Protocol):
    """The connection to the client's gateway, as the reader of upstream's answer sees it."""

    def pause(self, seconds: float) -> None:
        """Wait, and keep the connection to the gateway alive meanwhile."""
