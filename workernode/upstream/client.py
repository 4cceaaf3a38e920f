"""Asks upstream for one answer, plain or streamed; raises UpstreamFault from errors.py.

A plain request may be answered by an event stream, and a streamed one by plain JSON: the first bytes of the answer
tell, because servers and proxies are careless with content types.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from workernode import redaction
from workernode.call_stats import CallStats
from workernode.errors import UpstreamFault
from workernode.net.connection import Watch
from workernode.net.exchange import Exchange
from workernode.net.http_client import Pool
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy
from workernode.net.tls import tls_context
from workernode.net.waiting import sleep
from workernode.protocol import AnswerBegun, CallFailed, FaultKind, Hold, RateLimitReport, Target
from workernode.strict_json import read_object
from workernode.upstream.answer import read_completion
from workernode.upstream.dialects import is_about_content
from workernode.upstream.faults import RETRYABLE, fault_of_response
from workernode.upstream.headers import request_headers
from workernode.upstream.llamacpp_bodies import path_beside
from workernode.upstream.ratelimit_headers import limits_of, retry_after
from workernode.upstream.request import ChatRequest, Client
from workernode.upstream.retry_policy import ask_with_retries
from workernode.upstream.stream_options import StreamOptions
from workernode.upstream.streamed_answer import (
    CONNECTION_FAULTS,
    StreamedAnswer,
    fault_before_answer,
    fault_of_failed_read,
)

# The longest wait for an answer of `ask_beside`: the client of a stream waits as long.
ASIDE_TIME = 10.0  # seconds
STARTS = 503  # llama.cpp's status while it loads the model

T = TypeVar("T")


class Upstream:
    """The API, or the local model. The tasks of a worker share it.

    Args:
        connect_timeout: seconds for a connection.
        read_timeout: seconds; the longest silence between two chunks of a stream.
        report: called with the rate limits in the headers of an answer, with each failed call, and, where a hold asks
            for it, with each stream that has begun.
    """

    def __init__(
        self,
        connect_timeout: float,
        read_timeout: float,
        report: Callable[[RateLimitReport | CallFailed | AnswerBegun], None],
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._report = report
        self._hold = Hold(0.0)
        self._stream_options = StreamOptions()
        self._pool: Pool | None = None
        self._tls: ssl.SSLContext | None = None
        self._path = ""
        self._headers: dict[str, str] = {}
        self._own_names: set[str] = set()  # of these headers, in lower case

    def set_target(self, target: Target) -> None:
        """From now on ask this address with this key."""
        parts = urlsplit(target.url)
        origin = Origin.of(parts)
        if origin.secure and self._tls is None:
            self._tls = tls_context(target.ca)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", **request_headers(target)}
        self._own_names = {name.lower() for name in self._headers}
        redaction.add_secrets(secret for secret in (target.key, *dict(target.headers).values()) if secret)
        old, self._pool = self._pool, Pool(
            origin, self._connect_timeout, self._tls, Proxy.parse(target.proxy) if target.proxy else None
        )
        self._stream_options = StreamOptions()
        if old:
            old.close()

    def set_hold(self, hold: Hold) -> None:
        """Ask nothing before the hold is over, and repeat no failed call while it forbids that."""
        self._hold = hold

    def complete(self, request: ChatRequest, stats: CallStats) -> bytes:
        """Return a completion, byte for byte as upstream sent it.

        Raises:
            UpstreamFault: after the attempts that made sense.
        """
        return self._ask_with_retries(lambda: self._complete(request, stats), request, stats, None)

    def stream(
        self, request: ChatRequest, stats: CallStats, client: Client, meanwhile: Callable[[], None]
    ) -> StreamedAnswer:
        """Return a streamed answer whose first chunks have come.

        Args:
            client: watched while upstream is silent; an exception that it raises ends the wait.
            meanwhile: called once, while upstream works on the first attempt.

        Raises:
            UpstreamFault: after the attempts that made sense; nothing was passed on.
        """
        once: list[Callable[[], None]] = [meanwhile]

        def first_time() -> None:
            if once:
                once.pop()()

        return self._ask_with_retries(
            lambda: self._stream(request, stats, client, first_time), request, stats, client.pause
        )

    def ask_beside(self, name: str, body: bytes, deadline: float, client: Watch) -> object:
        """Ask llama.cpp something beside its chat completions, once; return the JSON of its answer.

        Args:
            name: of the endpoint, such as "tokenize".
            client: watched while upstream is silent.

        Returns:
            None where upstream has no such answer.

        Raises:
            UpstreamFault: it is away (UNAVAILABLE), or starts, or breaks off, or does not answer within ASIDE_TIME.
        """
        assert self._pool is not None
        path, ends_by = path_beside(self._path, name), min(deadline, time.monotonic() + ASIDE_TIME)
        try:
            exchange = self._pool.post(
                path, self._headers, body, deadline=ends_by, silence=ASIDE_TIME, watch=client
            )  # fmt: skip
            try:
                raw = exchange.read_all()
            except BaseException:
                exchange.abort()
                raise
        except CONNECTION_FAULTS as exc:
            raise fault_of_failed_read(exc) from exc
        exchange.finish()
        if exchange.status == STARTS:
            raise fault_of_response(exchange.status, exchange.headers, raw, is_own_model=True)
        try:
            return read_object(raw) if exchange.status == 200 else None
        except ValueError:
            return None

    def _ask_with_retries(
        self, ask: Callable[[], T], request: ChatRequest, stats: CallStats, sleep: Callable[[float], None] | None
    ) -> T:
        """Call `ask`, again where that may help, and report each failed call at once."""

        def ask_and_report() -> T:
            try:
                return ask()
            except UpstreamFault as fault:
                if fault.kind in RETRYABLE and stats.sent_at is not None:
                    self._report(CallFailed(request.request_id, stats.sent_at, fault.info()))
                raise

        return ask_with_retries(ask_and_report, request.deadline, sleep, lambda: not self._hold.no_retries)

    def _complete(self, request: ChatRequest, stats: CallStats) -> bytes:
        exchange = self._ask(request.body, request, stats, None, None)
        try:
            raw = exchange.read_all()
        except CONNECTION_FAULTS as exc:
            exchange.abort()
            raise fault_of_failed_read(exc) from exc
        exchange.finish()
        stats.done_at = time.monotonic()
        return read_completion(raw, stats, is_own_model=request.is_own_model)[0]

    def _stream(
        self, request: ChatRequest, stats: CallStats, client: Client, meanwhile: Callable[[], None]
    ) -> StreamedAnswer:
        exchange = self._ask_for_stream(request, stats, client, meanwhile)
        answer = StreamedAnswer(exchange, request, stats, self._read_timeout)
        try:
            answer.begin()
        except BaseException:
            answer.abort()
            raise
        if self._hold.reports_begun and stats.sent_at is not None:
            self._report(AnswerBegun(stats.sent_at))
        return answer

    def _ask_for_stream(
        self, request: ChatRequest, stats: CallStats, client: Client, meanwhile: Callable[[], None]
    ) -> Exchange:
        """One request, or two: a refusal may be about `stream_options`, so upstream is asked once more without."""
        without, options = request.body_without_options, self._stream_options
        if without is None or not options.are_asked(time.monotonic()):
            return self._ask(without() if without else request.body, request, stats, client, meanwhile)
        try:
            exchange = self._ask(request.body, request, stats, client, meanwhile)
        except UpstreamFault as fault:
            if not _may_be_about_options(fault):
                raise
            try:
                exchange = self._ask(without(), request, stats, client, meanwhile)
            except UpstreamFault:
                raise fault from None
            options.refused(time.monotonic())
        else:
            options.accepted()
        return exchange

    def _ask(
        self,
        body: bytes,
        request: ChatRequest,
        stats: CallStats,
        watch: Watch | None,
        meanwhile: Callable[[], None] | None,
    ) -> Exchange:
        """Send one request and return the exchange of a 2xx.

        Raises:
            UpstreamFault: upstream refused, or there was no answer before the task's deadline.
        """
        assert self._pool is not None
        self._wait_for_hold(request.deadline, watch, again=stats.attempts > 0)
        stats.begin_attempt(time.monotonic())
        headers = dict(self._headers)
        for name, value in request.headers.items():
            if name.lower() not in self._own_names:
                headers[name] = value
        if request.request_id.isascii():
            headers["X-Client-Request-Id"] = request.request_id
        try:
            exchange = self._pool.post(
                self._path,
                headers,
                body,
                deadline=request.deadline,
                silence=request.longest_silence,
                watch=watch,
                meanwhile=meanwhile,
                on_resend=lambda: stats.begin_attempt(time.monotonic()),
            )
        except CONNECTION_FAULTS as exc:
            raise fault_before_answer(exc) from exc
        stats.http_status = exchange.status
        stats.first_at = time.monotonic()
        if 200 <= exchange.status < 300:
            seen = limits_of(200, exchange.headers, stats.first_at, asked=stats.sent_at, wall=time.time())
            if seen:
                self._report(seen)
            return exchange
        raise self._refusal(exchange, request.is_own_model, stats)

    def _refusal(self, exchange: Exchange, is_own_model: bool, stats: CallStats) -> UpstreamFault:
        exchange.limit_silence(self._read_timeout)
        try:
            raw = exchange.read_all()
            exchange.finish()
        except CONNECTION_FAULTS:
            raw = b""
            exchange.abort()
        status, headers, wall = exchange.status, exchange.headers, time.time()
        fault = fault_of_response(status, headers, raw, is_own_model=is_own_model)
        fault.retry_after = retry_after(headers, wall)  # a 503 names it as well as a 429
        seen = limits_of(status, headers, stats.first_at or 0.0, asked=stats.sent_at, kind=fault.kind, wall=wall)
        if seen:
            self._report(seen)
        return fault

    def _wait_for_hold(self, deadline: float, client: Watch | None, again: bool) -> None:
        """A rate limit is the whole node's: wait for it where the task has the time, else let the task go back.

        Args:
            again: upstream was asked before. Such a call waits its turn in the spread even if the hold is over by now,
                so that those who were refused do not all come at once.
        """
        pause = getattr(client, "pause", sleep)
        place = random.random()
        again = again or time.monotonic() < self._hold.until
        while True:
            hold = self._hold  # it may be made longer meanwhile
            wait = hold.until + (place * hold.spread if again else 0.0) - time.monotonic()
            if wait <= 0:
                return
            if time.monotonic() + wait >= deadline:
                raise UpstreamFault(
                    FaultKind.RATE_LIMIT, "The upstream's rate limit leaves no time for this task.", retry_after=wait
                )
            pause(wait)


def _may_be_about_options(fault: UpstreamFault) -> bool:
    """A refusal of the request that names no other reason may be about `stream_options`."""
    if fault.http_status not in (400, 422) or fault.kind not in (FaultKind.CLIENT, FaultKind.REFUSED):
        return False
    error = fault.body["error"]
    param = error.get("param")
    names_another = bool(param) and not str(param).startswith("stream_options")
    return not names_another and not is_about_content(fault.code) and not is_about_content(str(error.get("type")))
