"""One WebSocket connection to the fake gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

from websockets.server import ServerProtocol

from tests.support.wire import Connection, Request


@dataclass(slots=True)
class Socket:
    """One WebSocket connection's history."""

    connection: Connection
    request: Request
    protocol: ServerProtocol
    frames: int = 0
    pings: int = 0
    ids: list[str] = field(default_factory=list)
    close_code: int | None = None  # of the close frame that the node sent
    rubbish: list[bytes] = field(default_factory=list)  # frames that were no JSON object with an id
    slow_read_ms: float = 0
    no_pong: bool = False
    stopped: bool = False
    parts: list[bytes] = field(default_factory=list)  # of a fragmented message

    @property
    def headers(self) -> dict[str, str]:
        """The upgrade request's."""
        return self.request.headers

    @property
    def closed_at(self) -> float | None:
        return self.connection.closed_at
