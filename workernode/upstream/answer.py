"""What the bytes of an answer amount to: whole, a part, an error, or no answer at all. Pure.

An answer is whole when upstream marks its end ([DONE], or a plain body that is complete), or when each choice that was
seen has its finish_reason (spec 6); what follows then cannot make it less. All else is a part, and a part is never
billed or read as an answer. Official clients forgive much (openai-python `src/openai/_streaming.py`): what they read,
is read.
"""

from __future__ import annotations

import re
from typing import Any

from workernode.cached_tokens import with_cached_tokens
from workernode.call_stats import CallStats
from workernode.errors import BAD_ANSWER, openai_error
from workernode.net.sse import Decoder, NamedEvent
from workernode.strict_json import read_object
from workernode.upstream.chunks import Chunk, finish_reason_of, has_figures, read_chunk
from workernode.upstream.conversion import chunks_from_completion, completion_from_chunks
from workernode.upstream.dialects import ErrorBody, error_in_answer, read_error
from workernode.upstream.faults import fault_of_bad_answer, fault_of_error

_DONE = (b"[DONE]", b'"[DONE]"')
_SSE_STARTS = (b"data", b"event", b"id", b"retry", b"error", b":")
_BOM = b"\xef\xbb\xbf"
# Some keep a plain request alive with comments, as if it were a stream. There is one way only to match each line: with
# two, the time doubles with each comment before an event stream.
_COMMENTS_BEFORE_JSON = re.compile(rb"(?:\s*:[^\r\n]*(?=[\r\n]))+\s*(?=\{)")
# Some end plain JSON like a stream (9router#3492).
_DONE_AFTER_JSON = re.compile(rb"\}\s*(data:\s*\[DONE\]\s*)\Z")


class StreamReader:
    """Reads one event stream: bytes in, chunks out, and how far the answer is.

    Args:
        stats: gets usage, model and finish_reason.
        choices: how many choices the client asked for.
        with_usage: the client asked for the usage chunk.

    Attributes:
        has_ended: nothing that follows belongs to the answer.
        has_usage: usage came with or after the last finish_reason.
    """

    def __init__(self, stats: CallStats, choices: int, with_usage: bool) -> None:
        self.has_ended = False
        self.has_usage = False
        self._stats = stats
        self._wanted = choices
        self._with_usage = with_usage
        self._decoder = Decoder()
        self._seen: set[int] = set()  # indexes of choices
        self._finished: set[int] = set()
        self._has_text = False
        # A finish_reason came before the text, or with its first piece, or text came after it: this upstream sends it
        # with every chunk (litellm#2195, one-api#1477).
        self._finish_is_doubtful = False

    @property
    def is_whole(self) -> bool:
        """Each choice that was seen has its finish_reason, or upstream sent [DONE]."""
        return bool(self._finished) and self._seen <= self._finished

    @property
    def may_end_early(self) -> bool:
        """Nothing but usage and [DONE] can follow: a stream that stays open need not be waited for."""
        return self.is_whole and len(self._finished) >= self._wanted and not self._finish_is_doubtful

    def feed(self, piece: bytes) -> list[Chunk]:
        """Return the chunks that are complete with these bytes. A chunk with an error is the last one.

        Raises:
            EventTooLong: an event is larger than an answer may be.
        """
        return self._read(self._decoder.feed(piece))

    def close(self) -> list[Chunk]:
        """Return what the end of the body completes; the last chunk is an error if the answer was cut."""
        chunks = self._read(self._decoder.close())
        if not self.has_ended:
            self.has_ended = True
            if not self.is_whole:
                chunks.append(_wrong("The upstream's stream was cut before its end.", "stream_cut"))
        return chunks

    def _read(self, events: list[bytes]) -> list[Chunk]:
        chunks = []
        for event in events:
            if self.has_ended:
                break
            if event.startswith(_DONE):
                self.has_ended = True
                break
            chunk = _chunk_of(event)
            if chunk is None:
                continue
            if chunk.error is not None and b"\n" in event:
                chunks += self._read_lines(event, chunk)
                continue
            if chunk.error is not None:
                self.has_ended = True
                if self.is_whole:  # every word has come: what fails now is not the answer
                    break
            if chunk.is_completion:
                chunks += self._read_completion(chunk)
                continue
            self._note(chunk)
            chunks.append(chunk)
        return chunks

    def _read_lines(self, event: bytes, wrong: Chunk) -> list[Chunk]:
        """Read an event whose lines may be events of their own, because the blank lines between them are missing.

        Args:
            wrong: what the event is as a whole; it stays that if its lines are no better.
        """
        lines = event.split(b"\n")
        chunks = [_chunk_of(line) for line in lines if not line.startswith(_DONE)]
        errors = [chunk for chunk in chunks if chunk is not None and chunk.error is not None]
        if not errors:
            return self._read(lines)
        self.has_ended = True
        # Of a broken chunk and an error after it (sub2api#1471), the error explains why the stream ends.
        return [] if self.is_whole else [next((chunk for chunk in errors if chunk.raw), wrong)]

    def _read_completion(self, chunk: Chunk) -> list[Chunk]:
        """A whole completion came as one event: return it as chunks.

        Behind the text of a stream it repeats all of it: MiniMax ends streams so (hermes-browser-extension#11).
        """
        completion = read_object(chunk.raw)
        if self._has_text:
            choices = [each for each in completion["choices"] if isinstance(each, dict)]
            unfinished = [each for each in choices if each.get("index", 0) not in self._finished]
            completion["choices"] = [{**each, "message": {}} for each in unfinished]
        chunks = chunks_from_completion(completion, self._with_usage)
        for each in chunks:
            self._note(each)
        return chunks

    def _note(self, chunk: Chunk) -> None:
        stats = self._stats
        for index, reason in chunk.choices:
            if chunk.has_text and index in self._finished:
                self._finish_is_doubtful = True
            self._seen.add(index)
            if reason is not None:
                self._finished.add(index)
                self._finish_is_doubtful = self._finish_is_doubtful or not self._has_text
        self._has_text = self._has_text or chunk.has_text
        if chunk.usage is not None and has_figures(chunk.usage):
            stats.usage = chunk.usage
            self.has_usage = self.is_whole
        if chunk.finish_reason is not None:
            stats.finish_reason = chunk.finish_reason
        if chunk.model is not None:
            stats.model = chunk.model
        stats.text_chunks += chunk.has_text


def looks_streamed(head: bytes) -> bool:
    """Return whether a body is an event stream, by its first bytes: content types are often wrong."""
    return head.removeprefix(_BOM).lstrip().startswith(_SSE_STARTS)


def read_completion(raw: bytes, stats: CallStats, *, is_own_model: bool) -> tuple[bytes, dict[str, Any]]:
    """Return a completion as bytes to pass on and as an object.

    Args:
        raw: the whole body of a plain answer; an event stream becomes one completion.
        stats: gets usage, model and finish_reason.

    Raises:
        UpstreamFault: the body is an error, was cut, or is no completion.
    """
    raw = raw.removeprefix(_BOM)
    if comments := _COMMENTS_BEFORE_JSON.match(raw):
        raw = raw[comments.end() :]
    if raw[:1] == b"{" and (done := _DONE_AFTER_JSON.search(raw, max(0, len(raw) - 100))):
        raw = raw[: done.start(1)]
    try:
        if looks_streamed(raw):
            raw = _completion_of_stream(raw, is_own_model)
        answer = read_object(raw)
    except ValueError as exc:
        raise fault_of_bad_answer(str(exc), raw) from None
    has_choices = isinstance(answer.get("choices"), list) and bool(answer["choices"])
    error = error_in_answer(answer) or (None if has_choices else read_error(answer))
    if error is not None:
        raise fault_of_error(error, is_own_model=is_own_model)
    if not has_choices:
        raise fault_of_bad_answer("it is JSON but no completion: it has no choices")
    _note_completion(stats, answer)
    return raw, answer


def _completion_of_stream(raw: bytes, is_own_model: bool) -> bytes:
    """Return the completion that a whole event stream adds up to.

    Raises:
        UpstreamFault: the stream holds an error or was cut.
        ValueError: it has no chunk.
    """
    reader = StreamReader(CallStats(), choices=1, with_usage=True)
    chunks = reader.feed(raw) + reader.close()
    for chunk in chunks:
        if chunk.error is not None:
            raise fault_of_error(chunk.error, is_own_model=is_own_model)
    return completion_from_chunks(chunk.raw for chunk in chunks)


def _chunk_of(event: bytes) -> Chunk | None:
    """Return the chunk that an event of the stream holds; None if it holds none."""
    name = event.name if isinstance(event, NamedEvent) else ""
    if not event or (name == "ping"):  # `data:` alone: how some keep a connection alive
        return None
    if event.startswith(b"data:"):  # a gateway that puts `data:` before what has it already (new-api#5367)
        event = event[5:]
    try:
        chunk = read_chunk(event, name)
    except ValueError as exc:
        if name == "line":
            return None
        if name == "error":
            return _wrong(event.decode("utf-8", "replace")[:1000], "upstream_error")
        return _wrong(f"A chunk of the upstream's stream cannot be used: {exc}.", BAD_ANSWER)
    # A line of JSON outside of an event is not part of the stream. But it may explain why the stream ends, or be the
    # whole answer of an upstream that does not stream, after comments that kept the connection alive.
    is_answer = chunk is not None and (chunk.error is not None or chunk.is_completion)
    return chunk if is_answer or name != "line" else None


def _wrong(message: str, code: str) -> Chunk:
    """What is wrong with a stream, in its place behind the chunks that are good."""
    body = openai_error(message, "upstream_error", code)
    return Chunk(b"", error=ErrorBody(body, message, code, frozenset(), None, 0, False))


def _note_completion(stats: CallStats, answer: dict[str, Any]) -> None:
    usage, model = answer.get("usage"), answer.get("model")
    stats.usage = with_cached_tokens(usage, answer) if isinstance(usage, dict) and has_figures(usage) else None
    stats.model = model if isinstance(model, str) else None
    for choice in answer["choices"]:
        if isinstance(choice, dict):
            stats.finish_reason = finish_reason_of(choice) or stats.finish_reason
