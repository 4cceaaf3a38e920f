"""A streamed answer under way: waits for its bytes and yields its chunks. What they mean is decided in answer.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from http.client import HTTPException

from workernode.call_stats import CallStats
from workernode.errors import UpstreamFault
from workernode.net.errors import AnswerTooLarge, Silence
from workernode.net.exchange import Exchange
from workernode.net.sse import EventTooLong
from workernode.protocol import FaultKind
from workernode.upstream.answer import StreamReader, looks_streamed, read_completion
from workernode.upstream.chunks import Chunk
from workernode.upstream.conversion import chunks_from_completion
from workernode.upstream.faults import describe_failure, fault_of_bad_answer, fault_of_error, fault_of_exception
from workernode.upstream.request import ChatRequest

log = logging.getLogger(__name__)

# A batch of chunks leaves at the latest when it has this size, so that memory stays small whatever upstream sends.
BATCH_BYTES = 65536
# And after so many reads: upstream may send keep-alives faster than they are read.
BATCH_READS = 64
# Some upstreams keep a stream open after its last choice has finished. Usage may still come: it is waited for.
USAGE_TIME = 1.0  # seconds after the last finish_reason
# Usage has come; another usage chunk or [DONE] may follow, mostly in the same packet.
DONE_TIME = 0.1  # seconds
# After the last chunk: how long the end of the body may take, before the connection is closed instead of kept.
TAIL_TIME = 0.25  # seconds

CONNECTION_FAULTS = (OSError, HTTPException, AnswerTooLarge, EventTooLong)


class StreamedAnswer:
    """A streamed answer. One task owns it; `finish` or `abort` ends it.

    Args:
        exchange: of which the head has come.
        read_timeout: seconds; the longest silence between two chunks.
    """

    def __init__(self, exchange: Exchange, request: ChatRequest, stats: CallStats, read_timeout: float) -> None:
        self._exchange = exchange
        self._request = request
        self._stats = stats
        self._read_timeout = read_timeout
        self._reader = StreamReader(stats, request.choices, request.with_usage)
        self._first: list[Chunk] = []
        self._is_broken = False  # the connection failed after the answer was whole
        self._ends_by: float | None = None  # monotonic; nothing but usage and [DONE] is waited for

    def begin(self) -> None:
        """Wait for the first chunks, until the task's deadline; no longer than the request's longest silence.

        Raises:
            UpstreamFault: what came is not an answer. Nothing was passed on, so upstream can be asked again.
        """
        try:
            self._first = self._read_first()
        except CONNECTION_FAULTS as exc:
            raise fault_before_answer(exc) from exc
        if not self._first:
            raise fault_of_bad_answer("it is an event stream without a chunk")
        # Only an error in the first place: whether good chunks before it came in the same read is chance, and what
        # becomes of a task must not depend on it.
        if self._first[0].error is not None:
            raise fault_of_error(self._first[0].error, is_own_model=self._request.is_own_model)
        self._stats.first_at = time.monotonic()
        self._exchange.limit_silence(self._read_timeout)

    def batches(self) -> Iterator[list[Chunk]]:
        """Yield the chunks in order; those that have arrived together in one list.

        Raises:
            UpstreamFault: of kind BROKEN; the chunks yielded before are good.
        """
        batch, self._first = self._first, []
        try:
            while True:
                self._add_at_hand(batch)
                if batch and batch[-1].error is not None:
                    error = batch.pop().error
                    if batch:
                        yield batch
                    assert error is not None
                    raise fault_of_error(error, is_own_model=self._request.is_own_model)
                if batch:
                    yield batch
                if self._reader.has_ended:
                    break
                batch = self._read_more()
        except CONNECTION_FAULTS as exc:
            raise _broken(fault_of_failed_read(exc)) from exc
        except UpstreamFault as fault:
            raise _broken(fault) from None
        self._stats.done_at = time.monotonic()

    def finish(self) -> None:
        """The answer was passed on: read the end of the body, so that the connection can be kept."""
        if self._is_broken:
            self._exchange.abort()
            return
        try:
            self._exchange.limit(time.monotonic() + TAIL_TIME)
            self._exchange.read_all()
            self._exchange.finish()
        except CONNECTION_FAULTS:
            self._exchange.abort()

    def abort(self) -> None:
        """Close the connection, so that upstream stops."""
        self._exchange.abort()

    def _read_first(self) -> list[Chunk]:
        head = b""
        while len(head) < len(b"event:"):
            piece = self._exchange.read_some()
            head = (head + piece).lstrip()  # white space that never ends is not copied again with each piece
            if not piece:
                break
        if not looks_streamed(head):
            return self._read_plain(head + self._exchange.read_all())
        chunks = self._reader.feed(head)
        while not chunks and not self._reader.has_ended:
            chunks = self._read_more()
        return chunks

    def _read_plain(self, raw: bytes) -> list[Chunk]:
        """Upstream does not stream: return its completion as chunks."""
        _, answer = read_completion(raw, self._stats, is_own_model=self._request.is_own_model)
        try:
            chunks = chunks_from_completion(answer, self._request.with_usage)
        except ValueError as exc:
            raise fault_of_bad_answer(str(exc)) from None
        self._stats.text_chunks = sum(chunk.has_text for chunk in chunks)
        self._reader.has_ended = True
        return chunks

    def _add_at_hand(self, batch: list[Chunk]) -> None:
        """Add the chunks that have arrived already."""
        size = sum(len(chunk.raw) for chunk in batch)
        for _ in range(BATCH_READS):
            if self._reader.has_ended or size >= BATCH_BYTES or not self._exchange.at_hand():
                break
            more = self._read_more()
            size += sum(len(chunk.raw) for chunk in more)
            batch += more

    def _read_more(self) -> list[Chunk]:
        """Return the chunks of the next piece. An answer that is whole ends here, whatever its connection does."""
        reader = self._reader
        self._limit_the_wait()
        try:
            piece = self._exchange.read_some()
        except CONNECTION_FAULTS as exc:
            if not reader.is_whole:
                raise
            about = {"event": "stream_end_missing", "request_id": self._request.request_id}
            log.info("the answer is whole; upstream did not end its stream: %s", describe_failure(exc), extra=about)
            self._is_broken = reader.has_ended = True
            return []
        return reader.feed(piece) if piece else reader.close()

    def _limit_the_wait(self) -> None:
        """Wait for a moment where nothing but usage and [DONE] can follow; for a chunk until the task's deadline."""
        if self._reader.may_end_early:
            ends_by = time.monotonic() + (DONE_TIME if self._reader.has_usage else USAGE_TIME)
            self._ends_by = ends_by if self._ends_by is None else min(self._ends_by, ends_by)
            self._exchange.wait_until(self._ends_by)
        elif self._ends_by is not None:  # text came after the finish_reason
            self._ends_by = None
            self._exchange.wait_until(self._request.deadline)


def fault_of_failed_read(exc: Exception) -> UpstreamFault:
    """Return the fault that a failed exchange is. An answer that is too large would be too large again."""
    if isinstance(exc, (AnswerTooLarge, EventTooLong)):
        message = f"The upstream's answer cannot be passed on: {exc}."
        return UpstreamFault(FaultKind.CLIENT, message, http_status=200, code="answer_too_large")
    return fault_of_exception(exc)


def fault_before_answer(exc: Exception) -> UpstreamFault:
    """Return the fault that an exchange is which failed before its answer began. One that was silent for too long is
    not tried again: its client is in the middle of a stream.
    """
    fault = fault_of_failed_read(exc)
    return _broken(fault) if isinstance(exc, Silence) else fault


def _broken(fault: UpstreamFault) -> UpstreamFault:
    """The same fault, after a part of the answer was passed on: asking again would repeat text."""
    return UpstreamFault(
        FaultKind.BROKEN,
        fault.message,
        http_status=fault.http_status,
        body=fault.body,
        code=fault.code,
        broke_by=fault.kind,
    )
