"""The server: takes requests, counts them, and chooses the directive of each."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.upstream.answer import Answer, whole
from tests.support.upstream.directive import (
    PLAIN,
    REFUSAL,
    WRONG_KEY,
    Directive,
    directive_of,
    encoded,
    error_of,
    healed,
    parse,
)
from tests.support.upstream.exchange import Exchange
from tests.support.upstream.gate import Gate
from tests.support.upstream.rate_limit import Limit
from tests.support.wire import ClientLeft, Connection, Request
from tests.support.wire_server import Server


class FakeUpstream(Server):
    """The server; see the package and `Directive`. `url` has no path, `api_url` ends in /v1."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Exchange] = []  # chat requests, in order of arrival
        self.other_requests: list[Request] = []  # /models, /health and strange paths
        self.models = ["lab"]
        self.pages: dict[str, Callable[[Request], tuple[int, bytes]]] = {}  # paths of their own: status and body
        self.only_key = ""  # what has another key is refused with 401, the list of models, too; "": any key will do
        self.inflight = self.peak = self.total = self.cancelled = 0
        self._counts: Counter[str] = Counter()
        self._gates: dict[str, Gate] = {}
        self._script: Callable[[Exchange], Directive | Mapping[str, Any] | None] | None = None
        self._mode = PLAIN
        self.rate_limit: Limit | None = None
        self._scheme = "https" if tls else "http"
        super().__init__(tls)

    # Set by a test.

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def mode(self) -> Directive:
        """The directive for requests that carry none; set a dictionary or None."""
        return self._mode

    @mode.setter
    def mode(self, words: Directive | Mapping[str, Any] | None) -> None:
        self._mode = directive_of(words)

    def script(self, decide: Callable[[Exchange], Directive | Mapping[str, Any] | None] | None) -> None:
        """Let `decide` choose each request's directive; None: the request's own one, or the mode, counts."""
        self._script = decide

    def limit(self, rpm: float, burst: float | None = None, headers: str = "openai") -> None:
        """Refuse with 429 rate_limit_exceeded what comes faster; burst defaults to a tenth of rpm. rpm=0: no limit."""
        self.rate_limit = Limit(rpm, burst or max(1.0, rpm / 10), headers) if rpm else None

    def open_gate(self, name: str) -> None:
        """Let through everything that waits, or will wait, at the gate."""
        self.post(lambda: self.gate(name).open())

    def release(self, name: str, permits: int = 1) -> None:
        """Let so many through the gate, now or as they come."""
        self.post(lambda: self.gate(name).release(permits))

    # What a test reads.

    def of(self, key: str) -> list[Exchange]:
        """The requests whose directive had this key."""
        return [one for one in list(self.requests) if one.key == key]

    def count(self, key: str) -> int:
        """How many requests had this key."""
        return self._counts[key]

    def waiting_at(self, name: str) -> int:
        """How many answers or chunks wait at the gate."""
        return len(self.gate(name).waiting)

    def wait_for_requests(self, count: int, timeout: float = 10) -> list[Exchange]:
        """Wait until so many chat requests have come in all; gives them."""
        self.wait_until(lambda: len(self.requests) >= count, timeout, f"{count} requests")
        return self.requests[:]

    def wait_for_inflight(self, count: int, timeout: float = 10) -> None:
        """Wait until exactly so many requests are being answered."""
        self.wait_until(lambda: self.inflight == count, timeout, f"{count} requests in flight")

    def wait_for_waiting(self, name: str, count: int = 1, timeout: float = 10) -> None:
        """Wait until so many answers or chunks wait at the gate."""
        self.wait_until(lambda: self.waiting_at(name) >= count, timeout, f"{count} waiting at gate {name!r}")

    def wait_for_cancelled(self, count: int = 1, timeout: float = 10) -> None:
        """Wait until so many clients have left in the middle of their answer."""
        self.wait_until(lambda: self.cancelled >= count, timeout, f"{count} cancelled")

    def summary(self) -> str:
        gates = {name: len(gate.waiting) for name, gate in list(self._gates.items())}
        return (
            f"upstream: {self.total} requests, {self.inflight} in flight (peak {self.peak}), {self.cancelled} "
            f"cancelled, {super().summary()}, at gates: {gates}"
        )

    # The answers.

    async def serve(self, connection: Connection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if request.method == "POST" and path.endswith("/chat/completions"):
            await self._chat(connection, Exchange(request))
            return
        self.other_requests.append(request)
        self.notify()
        if path in self.pages:
            await whole(connection, *self.pages[path](request), {})
        elif path.endswith("/models"):
            if not self._takes_key(request):
                await whole(connection, 401, error_of(WRONG_KEY), {})
            elif self._mode.status in (401, 403):
                await whole(connection, self._mode.status, error_of(self._mode), {})
            else:
                listed = [{"id": name, "object": "model"} for name in self.models]
                await whole(connection, 200, encoded({"object": "list", "data": listed}), {})
        elif path.endswith("/health"):
            await whole(connection, 200, b'{"status":"ok"}', {})
        else:
            unknown = Directive(err_type="invalid_request_error", err_code="unknown_url", err_msg="Unknown request URL")
            await whole(connection, 404, error_of(unknown), {})

    async def _chat(self, connection: Connection, exchange: Exchange) -> None:
        self.total += 1
        self.inflight += 1
        self.peak = max(self.peak, self.inflight)
        try:
            await self._counted(connection, exchange)
            exchange.answered_at = time.time()
        except ClientLeft:
            exchange.left_at = time.time()
            self.cancelled += 1
        finally:
            self.inflight -= 1
            self.notify()

    async def _counted(self, connection: Connection, exchange: Exchange) -> None:
        directive = self._directive(exchange)
        exchange.key = directive.key
        self._counts[directive.key] += 1
        self.requests.append(exchange)
        self.notify()
        headers: dict[str, str] = {}
        if self.rate_limit:
            passes, headers = self.rate_limit.take(exchange.headers.get("authorization", ""))
            if not passes:
                exchange.status = 429
                await whole(connection, 429, error_of(REFUSAL), headers)
                return
        if directive.fail_times and self._counts[directive.key] > directive.fail_times:
            directive = healed(directive)
        await Answer(self, connection, exchange, directive, headers).send()

    def _takes_key(self, request: Request) -> bool:
        return not self.only_key or request.headers.get("authorization") == f"Bearer {self.only_key}"

    def _directive(self, exchange: Exchange) -> Directive:
        if not self._takes_key(exchange.request):
            return WRONG_KEY
        try:
            if self._script and (decided := self._script(exchange)) is not None:
                return directive_of(decided)
            messages = (exchange.json or {}).get("messages")
            content = messages[-1]["content"] if messages else None
            if isinstance(content, str) and content.startswith("lab:"):
                return parse(content[4:])
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            self.mistake(f"bad directive: {type(error).__name__}: {error}")
        return self._mode

    def gate(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate())
