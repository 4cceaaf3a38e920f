"""Passes a streamed answer on to the gateway; where upstream breaks it off, another call goes on with it.

Which streams go on, and with what request, is decided in workernode/resume/.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from workernode.call_stats import CallStats
from workernode.chat_request import chat_request
from workernode.errors import STILL_BUSY, UpstreamFault
from workernode.gateway import StreamReply
from workernode.resume import Transcript, can_be_continued, continued_request
from workernode.settings import Settings
from workernode.task import Task
from workernode.upstream import RETRYABLE, ChatRequest, StreamedAnswer, Upstream

log = logging.getLogger(__name__)

# Between two rounds of asking again: upstream may be a local model that is being started.
PAUSE = 1.0  # seconds


class StreamRelay:
    """One streamed answer on its way to the gateway. Owned by one thread; `finish` or `abort` ends it.

    Args:
        stats: gets what asking upstream brings.
        deadline: monotonic; the task's.
        count_tokens: called with the number of chunks with text that have come.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        upstream: Upstream,
        reply: StreamReply,
        stats: CallStats,
        deadline: float,
        count_tokens: Callable[[int], None],
    ) -> None:
        self._task = task
        self._settings = settings
        self._upstream = upstream
        self._reply = reply
        self._stats = stats
        self._deadline = deadline
        self._count_tokens = count_tokens
        self._answer: StreamedAnswer | None = None
        self._headers: Mapping[str, str] = {}
        style = settings.resume_style
        self._transcript = Transcript(task.data, style) if can_be_continued(task.data, style) else None

    def run(self, request: ChatRequest) -> None:
        """Ask upstream, and pass on each chunk as it comes, to the end of the answer.

        Raises:
            UpstreamFault: of kind BROKEN once a chunk was passed on.
            ClientGone, GatewayConnectionLost: as StreamReply has them.
        """
        self._headers = request.headers
        self._answer = self._upstream.stream(request, self._stats, self._reply, self._reply.connect)
        broke = self._pass_on(self._answer, request.with_usage)
        while broke is not None:
            if not self._go_on(broke):
                return
            assert self._answer is not None
            broke = self._pass_on(self._answer, request.with_usage)

    def finish(self) -> None:
        """The answer was passed on."""
        if self._answer is not None:
            self._answer.finish()

    def abort(self) -> None:
        """Stop upstream."""
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
                    reply.send(raws)
                self._count_tokens(sum(chunk.has_text for chunk in batch))
        except UpstreamFault as fault:
            if transcript is None or fault.broke_by not in RETRYABLE or not transcript.can_go_on:
                raise
            return fault.copy()
        return None

    def _go_on(self, fault: UpstreamFault) -> bool:
        """Have another call go on with the stream.

        Returns:
            False if there is nothing to go on with: the client's limit leaves no token.

        Raises:
            UpstreamFault: `fault`, which ends the stream, if there is no other answer within the task's time.
        """
        transcript, data, style = self._transcript, self._task.data, self._settings.resume_style
        assert transcript is not None
        self.abort()
        rest = continued_request(data, style, transcript.text, transcript.tokens)
        if rest is None:
            self._stats.done_at = time.monotonic()
            self._stats.finish_reason = "length"
            self._reply.send([transcript.ending()])
            return False
        self._stats.part_broke(fault.code, time.monotonic(), transcript.tokens)
        transcript.go_on()
        request = chat_request(self._task, rest, self._settings, self._deadline)
        self._answer = self._ask_again(replace(request, headers=self._headers), fault)
        about = {"event": "stream_resumed", "request_id": self._task.request_id, "after_tokens": transcript.tokens}
        log.warning("a stream that upstream broke off goes on in another call (%s)", fault.message, extra=about)
        return True

    def _ask_again(self, request: ChatRequest, fault: UpstreamFault) -> StreamedAnswer:
        """Ask until upstream answers: it may be a local model that starts again."""
        while True:
            try:
                return self._upstream.stream(request, self._stats, self._reply, lambda: None)
            except UpstreamFault as again:
                if again.kind not in STILL_BUSY or time.monotonic() + PAUSE >= self._deadline:
                    break
            self._reply.pause(PAUSE)
        raise fault
