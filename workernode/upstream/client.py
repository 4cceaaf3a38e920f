"""Asks upstream and yields its answer; raises UpstreamFault from errors.py. The one place where tries are repeated.

A plain answer may come as an event stream and a streamed one as plain JSON: what came is told by its first bytes,
because servers and proxies are careless with content types.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, retry_if_exception, wait_random_exponential

from workernode import redaction
from workernode.body import Chunk, chunks_from_completion, completion_from_chunks, read_chunk
from workernode.errors import STILL_BUSY, UpstreamFault, of_bad_answer, of_error_object, of_exception, of_response
from workernode.net.connection import Watch
from workernode.net.http_client import AnswerTooLarge, Exchange, Pool, tls_context
from workernode.net.origin import Origin
from workernode.net.sse import Decoder, EventTooLong
from workernode.protocol import FaultKind, Hold, RateLimitReport, Target
from workernode.retry import call_with_retries
from workernode.strict_json import read_object
from workernode.upstream.headers import request_headers
from workernode.upstream.ratelimit_headers import limits_of, retry_after

# Tries of one delivery. More would keep a task from other nodes, which may be well: after them it is nak'd (spec 4).
TRIES = 4
# openai-python waits 0.5 s x 2^n, at most 8 s, with jitter (src/openai/_base_client.py); so do we.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds
# A batch of chunks leaves at the latest when it has this size, so that memory stays small whatever upstream sends.
BATCH_BYTES = 65536
# After the last chunk: how long the end of the body may take to come, before the connection is closed instead of kept.
TAIL_TIME = 0.25  # seconds
DONE = b"[DONE]"
SSE_STARTS = (b"data", b"event", b"id", b"retry", b":")

CONNECTION_FAULTS = (OSError, http.client.HTTPException, AnswerTooLarge, EventTooLong)
T = TypeVar("T")


class Client(Watch, Protocol):
    """The client's connection, as upstream's reader sees it."""

    def pause(self, seconds: float) -> None:
        """Wait, looking after the connection."""


@dataclass(slots=True)
class Asked:
    """What is known so far of asking upstream for one task. Moments are monotonic seconds."""

    attempts: int = 0
    first_sent_at: float | None = None
    sent_at: float | None = None  # the last try
    first_at: float | None = None  # its first chunk, or the head of a plain answer
    done_at: float | None = None
    http_status: int = 0
    usage: dict[str, Any] | None = None  # the last that was not null
    finish_reason: str | None = None
    model: str | None = None  # that answered
    text_chunks: int = 0  # chunks that brought words: what is billed of a stream whose usage never came

    def try_anew(self, now: float) -> None:
        """Upstream is asked (again): what the last try brought does not count."""
        self.attempts += 1
        self.sent_at = now
        self.first_sent_at = self.first_sent_at or now
        self.first_at = self.done_at = None
        self.usage = self.finish_reason = self.model = None
        self.http_status = self.text_chunks = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and until when."""

    body: bytes
    bare_body: bytes | None  # the same without stream_options; None for a plain request
    request_id: str
    deadline: float  # monotonic
    own_model: bool  # the model is the node's own: not finding it is the node's fault
    with_usage: bool = False  # the client of a stream wants the usage chunk


class Upstream:
    """The API, or the local model. Shared by the threads of a worker."""

    def __init__(self, connect_timeout: float, read_timeout: float, tell: Callable[[RateLimitReport], None]) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._tell = tell
        self._hold = Hold(0.0)
        self._options_known: bool | None = None  # does it take stream_options? None: not known yet
        self._pool: Pool | None = None
        self._tls: ssl.SSLContext | None = None
        self._path = ""
        self._headers: dict[str, str] = {}

    def aim(self, target: Target) -> None:
        """From now on ask there."""
        parts = urlsplit(target.url)
        origin = Origin.of(parts)
        if origin.secure and self._tls is None:
            self._tls = tls_context()
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", **request_headers(target)}
        redaction.add_secrets(secret for secret in (target.key, *dict(target.headers).values()) if secret)
        old, self._pool = self._pool, Pool(origin, self._connect_timeout, self._tls)
        if old:
            old.close()

    def hold(self, hold: Hold) -> None:
        """Ask nothing before it is over."""
        self._hold = hold

    def complete(self, question: Question, asked: Asked) -> bytes:
        """Return a completion, byte for byte as upstream sent it.

        Raises:
            UpstreamFault: after the tries that made sense.
        """
        return self._try(question, asked, None, lambda: self._complete(question, asked))

    def stream(self, question: Question, asked: Asked, client: Client, meanwhile: Callable[[], None]) -> Relay:
        """Return a streamed answer whose first chunks have come.

        Args:
            client: looked after while upstream is silent; what it raises ends the wait.
            meanwhile: called while upstream works on the first try.

        Raises:
            UpstreamFault: after the tries that made sense; nothing was relayed.
        """
        once: list[Callable[[], None]] = [meanwhile]

        def first_time() -> None:
            if once:
                once.pop()()

        return self._try(question, asked, client, lambda: self._stream(question, asked, client, first_time))

    def _try(self, question: Question, asked: Asked, client: Client | None, ask: Callable[[], T]) -> T:
        try:
            return call_with_retries(
                ask,
                retry=retry_if_exception(_may_pass),
                wait=_pause,
                stop=lambda state: _stop(state, question.deadline),
                sleep=client.pause if client else time.sleep,
            )
        except UpstreamFault as exc:
            fault = exc
        # Its traceback holds tenacity's state, which holds it: such a circle, and all that was read of an answer with
        # it, would stay in memory until the garbage collector comes by.
        fault.__cause__ = fault.__context__ = None
        try:
            raise fault.with_traceback(None)
        finally:
            del fault

    def _complete(self, question: Question, asked: Asked) -> bytes:
        exchange = self._ask(question.body, question, asked, None, None)
        try:
            raw = exchange.read_all()
        except CONNECTION_FAULTS as exc:
            exchange.abort()
            raise _fault_of(exc) from exc
        exchange.finish()
        asked.done_at = time.monotonic()
        try:
            if _looks_streamed(raw):
                raw = _whole_of(raw, question.own_model)
            answer = read_object(raw)
        except ValueError as exc:
            raise of_bad_answer(str(exc)) from None
        _check_answer(answer, question.own_model)
        _note_usage(asked, answer)
        return raw

    def _stream(self, question: Question, asked: Asked, client: Client, meanwhile: Callable[[], None]) -> Relay:
        bare = question.bare_body if self._options_known is False else None
        try:
            exchange = self._ask(bare or question.body, question, asked, client, meanwhile)
        except UpstreamFault as fault:
            # It may be stream_options that upstream does not know: the question is asked once more without them, unless
            # it is known that it does.
            if fault.http_status not in (400, 422) or self._options_known is not None or question.bare_body is None:
                raise
            try:
                exchange = self._ask(question.bare_body, question, asked, client, meanwhile)
            except UpstreamFault:
                raise fault from None
            self._options_known = False
        else:
            if bare is None:
                self._options_known = True
        relay = Relay(exchange, question, asked)
        try:
            relay.begin()
        except BaseException:
            relay.abort()
            raise
        return relay

    def _ask(
        self, body: bytes, question: Question, asked: Asked, watch: Watch | None, meanwhile: Callable[[], None] | None
    ) -> Exchange:
        """One request: the exchange of a 200, or an UpstreamFault."""
        assert self._pool is not None
        self._wait_for_hold(question.deadline, watch, again=asked.attempts > 0)
        asked.try_anew(time.monotonic())
        headers = (
            {**self._headers, "X-Client-Request-Id": question.request_id}
            if question.request_id.isascii()
            else self._headers
        )
        try:
            exchange = self._pool.post(
                self._path,
                headers,
                body,
                deadline=question.deadline,
                silence=self._read_timeout,
                watch=watch,
                meanwhile=meanwhile,
            )
        except CONNECTION_FAULTS as exc:
            raise _fault_of(exc) from exc
        asked.http_status = exchange.status
        asked.first_at = time.monotonic()
        if exchange.status == 200:
            seen = limits_of(200, exchange.headers, asked.first_at, asked=asked.sent_at, wall=time.time())
            if seen:
                self._tell(seen)
            return exchange
        raise self._refusal(exchange, question.own_model, asked)

    def _refusal(self, exchange: Exchange, own_model: bool, asked: Asked) -> UpstreamFault:
        try:
            raw = exchange.read_all()
            exchange.finish()
        except CONNECTION_FAULTS:
            raw = b""
            exchange.abort()
        status, headers, wall = exchange.status, exchange.headers, time.time()
        fault = of_response(status, headers, raw, own_model=own_model)
        fault.retry_after = retry_after(headers, wall)  # a 503 says it as well as a 429
        seen = limits_of(status, headers, asked.first_at or 0.0, asked=asked.sent_at, kind=fault.kind, wall=wall)
        if seen:
            self._tell(seen)
        return fault

    def _wait_for_hold(self, deadline: float, client: Watch | None, again: bool) -> None:
        """A limit is the whole node's: wait for it where the task has the time, else let the task go back.

        Args:
            again: upstream was asked before. Such a call waits its turn in the spread even if the hold is over by now,
                so that those who were refused do not all come at once.
        """
        pause = getattr(client, "pause", time.sleep)
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


class Relay:
    """A streamed answer under way. Owned by one thread; ended by `finish` or `abort`."""

    def __init__(self, exchange: Exchange, question: Question, asked: Asked) -> None:
        self._exchange = exchange
        self._question = question
        self._asked = asked
        self._decoder = Decoder()
        self._whole = False  # the end was seen: [DONE], or the end of a plain answer
        self._first: list[Chunk] = []

    def begin(self) -> None:
        """Wait for the first chunks.

        Raises:
            UpstreamFault: what came is not an answer; nothing was relayed, so it can be asked again.
        """
        head = b""
        try:
            while len(head.lstrip()) < len(b"event:"):
                piece = self._exchange.read_some()
                head += piece
                if not piece:
                    break
            if _looks_streamed(head):
                self._first = self._chunks_of(self._decoder.feed(head))
                while not self._first and not self._whole:
                    self._first = self._more()
            else:
                self._first = self._plain(head + self._exchange.read_all())
        except CONNECTION_FAULTS as exc:
            raise _fault_of(exc) from exc
        if not self._first:
            raise of_bad_answer("it is an event stream without a chunk")
        # Only where it comes first: whether good chunks before it came in the same read is chance, and what becomes of
        # a task must not hang on it.
        if self._first[0].error is not None:
            raise of_error_object(self._first[0].error, own_model=self._question.own_model)
        self._asked.first_at = time.monotonic()

    def batches(self) -> Iterator[list[Chunk]]:
        """Yield the chunks in order, those that are there together in one list.

        Raises:
            UpstreamFault: of kind BROKEN; what was yielded before is good.
        """
        batch, self._first = self._first, []
        try:
            while True:
                size = sum(len(chunk.raw) for chunk in batch)
                while not self._whole and size < BATCH_BYTES and self._exchange.at_hand():
                    more = self._more()
                    size += sum(len(chunk.raw) for chunk in more)
                    batch += more
                for place, chunk in enumerate(batch):
                    if chunk.error is not None:
                        if place:
                            yield batch[:place]
                        raise of_error_object(chunk.error, own_model=self._question.own_model)
                if batch:
                    yield batch
                if self._whole:
                    break
                batch = self._more()
        except CONNECTION_FAULTS as exc:
            raise _broken(_fault_of(exc)) from exc
        except UpstreamFault as fault:
            raise _broken(fault) from None
        self._asked.done_at = time.monotonic()

    def finish(self) -> None:
        """Done: read what ends the body, so that the connection can be kept."""
        try:
            self._exchange.limit(time.monotonic() + TAIL_TIME)
            self._exchange.read_all()
            self._exchange.finish()
        except CONNECTION_FAULTS:
            self._exchange.abort()

    def abort(self) -> None:
        """Close the connection, so that upstream stops."""
        self._exchange.abort()

    def _more(self) -> list[Chunk]:
        piece = self._exchange.read_some()
        if piece:
            return self._chunks_of(self._decoder.feed(piece))
        chunks = self._chunks_of(self._decoder.close())
        if not self._whole:
            self._whole = True
            if self._asked.finish_reason is None:
                chunks.append(_wrong("The upstream's stream was cut before its end.", "stream_cut"))
        return chunks

    def _chunks_of(self, events: list[bytes]) -> list[Chunk]:
        chunks = []
        for event in events:
            if self._whole:
                break
            if event.startswith(DONE):
                self._whole = True
                break
            if not event:  # `data:` alone: how some keep a connection busy
                continue
            try:
                chunk = read_chunk(event)
            except ValueError as exc:
                chunk = _wrong(f"A chunk of the upstream's stream cannot be used: {exc}.", "bad_answer")
            self._note(chunk)
            chunks.append(chunk)
        return chunks

    def _plain(self, raw: bytes) -> list[Chunk]:
        """An upstream that does not stream: its completion as chunks."""
        try:
            answer = read_object(raw)
            _check_answer(answer, self._question.own_model)
            chunks = chunks_from_completion(answer, self._question.with_usage)
        except ValueError as exc:
            raise of_bad_answer(str(exc)) from None
        for chunk in chunks:
            self._note(chunk)
        self._whole = True
        return chunks

    def _note(self, chunk: Chunk) -> None:
        if chunk.usage is not None:
            self._asked.usage = chunk.usage
        if chunk.finish_reason is not None:
            self._asked.finish_reason = chunk.finish_reason
        if chunk.model is not None:
            self._asked.model = chunk.model
        self._asked.text_chunks += chunk.has_text


def _wrong(message: str, code: str) -> Chunk:
    """What is wrong with a stream, in its place behind the chunks that are good."""
    return Chunk(b"", error={"message": message, "type": "upstream_error", "param": None, "code": code})


def _whole_of(raw: bytes, own_model: bool) -> bytes:
    """The completion that an event stream adds up to. Nothing of it has left, so one that failed can be asked again.

    Raises:
        UpstreamFault, ValueError: it holds an error, was cut, or is no stream of chunks.
    """
    decoder = Decoder()
    raws: list[bytes] = []
    finished = False
    for event in decoder.feed(raw) + decoder.close():
        if event.startswith(DONE):
            finished = True
            break
        if event:
            chunk = read_chunk(event)
            if chunk.error is not None:
                raise of_error_object(chunk.error, own_model=own_model)
            finished = finished or chunk.finish_reason is not None
            raws.append(event)
    if raws and not finished:
        raise ValueError("it is an event stream that was cut before its end")
    return completion_from_chunks(raws)


def _fault_of(exc: Exception) -> UpstreamFault:
    """What a failed exchange is. One that is too large would be so again."""
    if isinstance(exc, (AnswerTooLarge, EventTooLong)):
        return UpstreamFault(
            FaultKind.CLIENT,
            f"The upstream's answer cannot be passed on: {exc}.",
            http_status=200,
            code="answer_too_large",
        )
    return of_exception(exc)


def _check_answer(answer: dict[str, Any], own_model: bool) -> None:
    error = answer.get("error")
    if error and not answer.get("choices"):
        raise of_error_object(error if isinstance(error, dict) else {"message": str(error)}, own_model=own_model)
    if not isinstance(answer.get("choices"), list):
        raise of_bad_answer("it is JSON but no completion: it has no choices")


def _note_usage(asked: Asked, answer: dict[str, Any]) -> None:
    usage = answer.get("usage")
    asked.usage = usage if isinstance(usage, dict) else None
    model = answer.get("model")
    asked.model = model if isinstance(model, str) else None
    for choice in answer["choices"]:
        if isinstance(choice, dict) and isinstance(choice.get("finish_reason"), str):
            asked.finish_reason = choice["finish_reason"]


def _looks_streamed(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(SSE_STARTS)


def _broken(fault: UpstreamFault) -> UpstreamFault:
    """The same fault, after a part of the answer was relayed: asking again would repeat text."""
    return UpstreamFault(
        FaultKind.BROKEN, fault.message, http_status=fault.http_status, body=fault.body, code=fault.code
    )


_backoff = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, min=FIRST_PAUSE / 2)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: exponential with jitter, and never less than upstream asked for."""
    fault = state.outcome.exception() if state.outcome else None
    asked_for = fault.retry_after if isinstance(fault, UpstreamFault) else None
    return max(_backoff(state), asked_for or 0.0)


def _may_pass(exc: BaseException) -> bool:
    return isinstance(exc, UpstreamFault) and exc.kind in STILL_BUSY


def _stop(state: RetryCallState, deadline: float) -> bool:
    """Enough: the tries are used up, or the pause would outlast the task's time."""
    return state.attempt_number >= TRIES or time.monotonic() + state.upcoming_sleep >= deadline
