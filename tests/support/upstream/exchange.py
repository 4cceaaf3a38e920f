"""One chat request to the upstream, and what became of it."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.wire import Request


@dataclass
class Exchange:
    """One chat request and what became of it. Moments are Unix seconds."""

    request: Request
    key: str = ""
    status: int = 0  # 0: no head was sent
    sent: list[tuple[float, str]] = field(default_factory=list)  # each event's data as it left; a plain body is one
    answered_at: float | None = None
    left_at: float | None = None  # when the client's leaving in the middle was noticed

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def headers(self) -> dict[str, str]:
        return self.request.headers

    @property
    def body(self) -> bytes:
        return self.request.body

    @property
    def at(self) -> float:
        return self.request.at

    @property
    def connection(self) -> int:
        return self.request.connection

    @functools.cached_property
    def json(self) -> Any:
        """The request's body, parsed; None if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def events(self) -> list[str]:
        """The data of each event sent, without [DONE]."""
        return [data for _, data in self.sent if data != "[DONE]"]
