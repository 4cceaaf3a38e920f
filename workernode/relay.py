"""Passes a streamed answer on to the gateway; where upstream breaks it off, another call goes on with it.

Which streams go on, and with what request, is decided in workernode/resume/.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from workernode.call_stats import CallStats
from workernode.chat_request import chat_request
from workernode.errors import BAD_ANSWER, STILL_BUSY, UpstreamFault, broken_error
from workernode.gateway import StreamReply
from workernode.llamacpp import LlamaCpp
from workernode.protocol import FaultKind, SavedStream
from workernode.resume import Opening, Transcript, can_be_continued, continued_request
from workernode.resume_style import ResumeStyle
from workernode.settings import Settings
from workernode.stream_memory import StreamSaver
from workernode.task import Task
from workernode.upstream import RETRYABLE, ChatRequest, StreamedAnswer, Upstream

log = logging.getLogger(__name__)

# Between two rounds of asking again: upstream may be a local model that is being started.
PAUSE = 1.0  # seconds


class Progress(Protocol):
    """What the supervisor sees of a stream while it runs."""

    saver: StreamSaver | None  # what the client was sent; None where that is not kept

    def count_tokens(self, tokens: int) -> None:
        """Upstream has sent this many more tokens."""


class StreamRelay:
    """One streamed answer on its way to the gateway. Owned by one task; `finish` or `abort` ends it.

    Args:
        stats: gets what asking upstream brings.
        deadline: monotonic; the task's.
        progress: shows what the supervisor sees.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        upstream: Upstream,
        reply: StreamReply,
        stats: CallStats,
        deadline: float,
        progress: Progress,
    ) -> None:
        self._task = task
        self._settings = settings
        self._upstream = upstream
        self._reply = reply
        self._stats = stats
        self._deadline = deadline
        self._progress = progress
        self._answer: StreamedAnswer | None = None
        self._llamacpp = LlamaCpp(upstream, settings.node_type == "local", deadline, reply)
        self._headers: Mapping[str, str] = {}
        style = settings.resume_style
        self._transcript = Transcript(task.data, style) if can_be_continued(task.data, style) else None
        self._saver = progress.saver if self._transcript is not None else None
        if self._saver is not None:
            self._saver.start()

    def run(self, request: ChatRequest) -> None:
        """Ask upstream, and pass on each chunk as it comes, to the end of the answer.

        Raises:
            UpstreamFault: of kind BROKEN once a chunk was passed on.
            ClientGone, GatewayConnectionLost: as StreamReply has them.
        """
        self._headers = request.headers
        self._answer = self._upstream.stream(request, self._stats, self._reply, self._reply.connect)
        self._go_on_to_the_end(self._pass_on(self._answer, request.with_usage), request.with_usage)

    def resume(self, saved: SavedStream, request: ChatRequest) -> None:
        """Go on with a stream whose worker died, to the end of the answer.

        Raises:
            As `run`.
        """
        self._headers = request.headers
        message = "its worker died."
        fault = UpstreamFault(
            FaultKind.BROKEN, message, body=broken_error(message), code="worker_died", broke_by=FaultKind.PASSING
        )
        if self._transcript is None:
            raise fault
        opening = Opening(saved.members, saved.has_role)
        self._transcript.restore(opening, saved.text, saved.tokens, saved.resumes)
        if saved.is_finished:
            self._stats.done_at = time.monotonic()
            return
        if not self._transcript.is_continuable:
            raise fault
        self._go_on_to_the_end(fault, request.with_usage, counts=False)

    def _go_on_to_the_end(self, broke: UpstreamFault | None, with_usage: bool, *, counts: bool = True) -> None:
        while broke is not None and self._go_on(broke, counts):
            assert self._answer is not None
            broke, counts = self._pass_on(self._answer, with_usage), True
        if self._saver is not None and self._reply.held:  # they leave with the end
            self._saver.stop()

    def finish(self) -> None:
        """The answer was passed on."""
        if self._answer is not None:
            self._answer.finish()

    def abort(self) -> None:
        """Stop upstream; the stream does not go on."""
        if self._saver is not None:
            self._saver.stop()
        self._stop_upstream()

    def _stop_upstream(self) -> None:
        if self._answer is not None:
            self._answer.abort()

    def _pass_on(self, answer: StreamedAnswer, with_usage: bool) -> UpstreamFault | None:
        """Pass on the chunks of one call, to their end.

        Returns:
            Why they broke off, if another call may go on with them; None at the end of the answer.
        """
        transcript, reply = self._transcript, self._reply
        try:
            for batch in answer.batches():
                chunks = [chunk for chunk in batch if with_usage or not chunk.bare_usage]
                raws = [chunk.raw for chunk in chunks] if transcript is None else transcript.pass_on(chunks)
                if raws:
                    reply.send(raws, self._prepared())
                self._progress.count_tokens(sum(chunk.has_text for chunk in batch))
            if transcript is not None and (rest := transcript.rest()):
                reply.send(rest, self._prepared())
        except UpstreamFault as fault:
            if transcript is None or fault.broke_by not in RETRYABLE or not transcript.can_go_on:
                raise
            return fault.copy()
        return None

    def _go_on(self, fault: UpstreamFault, counts: bool) -> bool:
        """Have another call go on with the stream.

        Args:
            counts: see Transcript.go_on.

        Returns:
            False if there is nothing to go on with: the client's limit leaves no token.

        Raises:
            UpstreamFault: `fault`, which ends the stream, if there is no other answer within the task's time, or if
                upstream would say the text again.
        """
        transcript = self._transcript
        assert transcript is not None
        self._stop_upstream()
        rest = self._rest()
        if rest is None:
            self._stats.done_at = time.monotonic()
            self._stats.finish_reason = "length"
            self._reply.send([transcript.ending()], self._prepared())
            return False
        request = chat_request(self._task, rest, self._settings, self._deadline)
        if not self._is_continued(request, rest):
            raise fault
        self._stats.part_broke(fault.code, time.monotonic(), transcript.tokens)
        transcript.go_on(counts=counts)
        if (saver := self._prepared()) is not None and not self._reply.held:
            saver.done()
        again = replace(request, headers=self._headers, longest_silence=self._longest_silence())
        self._answer = self._ask_again(again, fault)
        about = {"event": "stream_resumed", "request_id": self._task.request_id, "after_tokens": transcript.tokens}
        log.warning("a stream that broke off goes on in another call (%s)", fault.message, extra=about)
        return True

    def _rest(self) -> dict[str, Any] | None:
        """Return the chat request for the rest of the text; None if the client's limit leaves no token.

        llama.cpp is asked for the number of tokens: a chunk holds several where a character does, or where they might
        have been a stop word. Other chunks are taken for one token each.
        """
        transcript, data, style = self._transcript, self._task.data, self._settings.resume_style
        assert transcript is not None
        rest = continued_request(data, style, transcript.text, transcript.tokens)
        if rest is not None and style is ResumeStyle.LLAMACPP and transcript.text:
            more = transcript.counted(self._llamacpp.tokens_in(transcript.text))
            self._stats.text_chunks += more
            rest = continued_request(data, style, transcript.text, transcript.tokens)
        return rest

    def _is_continued(self, request: ChatRequest, rest: dict[str, Any]) -> bool:
        """Whether upstream goes on with the text. Only llama.cpp can be asked; of others, STREAM_RESUME says so."""
        assert self._transcript is not None
        if self._settings.resume_style is not ResumeStyle.LLAMACPP or not self._transcript.text:
            return True
        return self._llamacpp.continues(request.body, rest["messages"][-1]["content"])

    def _longest_silence(self) -> float:
        """Return how long the next call may be silent: as long as in the middle of a stream, and as upstream took to
        begin the first part, because it reads the same prompt again.
        """
        began, first = self._stats.began_at, self._stats.first_token_at
        return self._settings.read_timeout + (first - began if began is not None and first is not None else 0.0)

    def _prepared(self) -> StreamSaver | None:
        """Save what is about to leave, and return what notes that it has left; None if it is not saved."""
        if self._saver is None:
            return None
        assert self._transcript is not None
        is_saved = self._saver.prepare(self._transcript, self._transcript.unsaved(), self._stats)
        return self._saver if is_saved else None

    def _ask_again(self, request: ChatRequest, fault: UpstreamFault) -> StreamedAnswer:
        """Ask until upstream answers: it may be a local model that starts again. A call that is silent is the last, and
        so is the last of some that upstream has answered with what is no answer: it may ask money for each.
        """
        while True:
            try:
                return self._upstream.stream(request, self._stats, self._reply, lambda: None)
            except UpstreamFault as again:
                is_taken = again.code == BAD_ANSWER
                if is_taken or again.kind not in STILL_BUSY or time.monotonic() + PAUSE >= self._deadline:
                    break
            self._reply.pause(PAUSE)
        raise fault
