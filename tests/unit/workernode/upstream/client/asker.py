"""Upstream as a worker has it, in front of a double that misbehaves; and what it reports."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.fixtures import API_KEY
from tests.support.upstream import FakeUpstream
from workernode.body import for_upstream
from workernode.call_stats import CallStats
from workernode.errors import ClientGone, UpstreamFault
from workernode.protocol import AnswerBegun, CallFailed, RateLimitReport, Target
from workernode.upstream.chunks import Chunk
from workernode.upstream.client import Upstream
from workernode.upstream.request import ChatRequest
from workernode.upstream.streamed_answer import StreamedAnswer

LONG = 20.0  # seconds: what must end sooner by something else


class Client:
    """A client that waits; see Client in workernode/upstream/client.py."""

    def __init__(self) -> None:
        self.due = float("inf")
        self.pauses: list[float] = []
        self.connected = 0
        self.gone_at = float("inf")  # monotonic

    def fileno(self) -> int:
        return -1

    def readable(self) -> None:
        raise AssertionError("there is nothing to read")

    def tick(self) -> None:
        raise ClientGone("left")

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def connect(self) -> None:
        self.connected += 1


class Asker:
    """Upstream as a worker has it, and all that it reports."""

    def __init__(self, fake: FakeUpstream, key: str | None = API_KEY) -> None:
        self.fake = fake
        self.seen: list[RateLimitReport] = []
        self.failed: list[CallFailed] = []
        self.begun: list[AnswerBegun] = []
        self.upstream = Upstream(5.0, LONG, self.report)
        self.upstream.set_target(Target(f"{fake.api_url}/chat/completions", key))
        self.client = Client()
        self.asked = CallStats()
        self.relays: list[StreamedAnswer] = []

    def report(self, seen: RateLimitReport | CallFailed | AnswerBegun) -> None:
        if isinstance(seen, CallFailed):
            self.failed.append(seen)
        elif isinstance(seen, AnswerBegun):
            self.begun.append(seen)
        else:
            self.seen.append(seen)

    def question(self, directive: dict[str, Any], stream: bool, time_s: float, **more: Any) -> ChatRequest:
        data = {"model": "m", "messages": [{"role": "user", "content": "lab:" + json.dumps(directive)}]}
        body = for_upstream(data, stream=stream, model=None)

        def without_options() -> bytes:
            return for_upstream(data, stream=True, model=None, ask_usage=False)

        self.asked = CallStats()
        return ChatRequest(body, without_options if stream else None, "id-1", time.monotonic() + time_s, True, **more)

    def complete(self, directive: dict[str, Any] | None = None, time_s: float = LONG, **more: Any) -> bytes:
        return self.upstream.complete(self.question(directive or {}, False, time_s, **more), self.asked)

    def begin(self, directive: dict[str, Any] | None = None, time_s: float = LONG, **more: Any) -> StreamedAnswer:
        question = self.question(directive or {}, True, time_s, **more)
        self.relays.append(self.upstream.stream(question, self.asked, self.client, self.client.connect))
        return self.relays[-1]

    def stream(self, directive: dict[str, Any] | None = None, time_s: float = LONG, **more: Any) -> list[Chunk]:
        relay = self.begin(directive, time_s, **more)
        chunks = [chunk for batch in relay.batches() for chunk in batch]
        relay.finish()
        return chunks

    def fault(
        self, directive: dict[str, Any], stream: bool = False, time_s: float = LONG, **more: Any
    ) -> UpstreamFault:
        """The fault that it ends in, before anything of it could be relayed."""
        ask = self.begin if stream else self.complete
        with pytest.raises(UpstreamFault) as caught:
            ask(directive, time_s, **more)
        return caught.value

    def close(self) -> None:
        """Close its connections, those of streams that were left in the middle as well."""
        for relay in self.relays:
            relay.abort()
        self.upstream.set_target(Target("http://127.0.0.1:9/", None))  # which closes those that are kept


def texts(chunks: list[Chunk]) -> str:
    words = [json.loads(chunk.raw)["choices"] for chunk in chunks if chunk.raw and not chunk.bare_usage]
    return "".join(choices[0]["delta"].get("content") or "" for choices in words)


WORDS = "".join(f"wörd {number} " for number in range(5))
