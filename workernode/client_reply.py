"""The way back of one delivery to its client: the answer or the error, and how much of it has left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from workernode.errors import ClientGone, GatewayConnectionLost
from workernode.facts import Facts
from workernode.gateway import AnswerResult, Gateways, StreamReply
from workernode.protocol import AnswerState
from workernode.stream_claim import StreamClaim
from workernode.task import Endpoint
from workernode.undelivered import Undelivered


class ClientReply:
    """What the client of one delivery gets. Owned by one task.

    Attributes:
        answer_state: how much of the answer may have left.
        undelivered: what the gateway has not got.

    Args:
        facts: of the delivery; gets the times of answering.
        show: shows the supervisor how much of the answer may have left; called before it leaves.
        claim: what a stream waits for before it may be sent; None: it may be.
    """

    def __init__(
        self, facts: Facts, gateways: Gateways, show: Callable[[AnswerState], None], claim: StreamClaim | None
    ) -> None:
        self.answer_state = AnswerState.NOT_STARTED
        self.undelivered = Undelivered()
        self._facts, self._job = facts, facts.job
        self._gateways = gateways
        self._show, self._claim = show, claim
        self._reply: StreamReply | None = None  # the way back of a stream, as long as it can be used

    def open(self, endpoint: Endpoint, request_id: str) -> StreamReply:
        """Return the way back of a stream. Nothing is sent yet."""
        job, claim = self._job, self._claim
        may_send = (lambda: None) if claim is None else claim.check
        reply = self._gateways.stream(endpoint, request_id, job.received_at, job.deadline, self.show_state, may_send)
        if claim is not None:
            claim.on_lease_end = reply.drop_undelivered
        self._reply = reply
        return reply

    def show_state(self, state: AnswerState) -> None:
        """So much of the answer leaves now.

        Raises:
            ClaimLost: nothing may leave any more.
        """
        if self._claim is not None:
            self._claim.wait_for(state)
            begins = state is AnswerState.STARTED and self.answer_state is AnswerState.NOT_STARTED
            if begins or state is AnswerState.ENDING:
                # What waits for its lease is not shown as leaving: if its worker dies meanwhile, nothing has left.
                self._claim.check()
        self.answer_state = state
        self._show(state)

    def post(self, endpoint: Endpoint, request_id: str, raw: bytes) -> AnswerResult:
        """POST a whole answer, or an error."""
        job = self._job
        result = self._gateways.post(endpoint, request_id, raw, job.deadline, once=job.kept is not None)
        return self._note(self.undelivered.note(endpoint, result, [raw]))

    def end(self, endpoint: Endpoint, reply: StreamReply, error: bytes | None = None) -> AnswerResult:
        """End a stream.

        Args:
            error: the error object that it ends with, if it does.

        Raises:
            ClientGone: nobody waits for it.
            GatewayConnectionLost: a part of it is at the gateway, and the connection broke.
        """
        result = reply.end(error, once=self._job.kept is not None)
        return self._note(self.undelivered.note(endpoint, result, reply.held))

    def end_after_break(self, error: dict[str, Any]) -> None:
        """End the stream whose connection broke in its middle with an error, over a new connection."""
        assert self._reply is not None
        self._facts.answering_since = time.monotonic()
        self._note(self._reply.end_over_new_connection(_json(error)))

    def send_error(self, endpoint: Endpoint, request_id: str, stream: bool, error: dict[str, Any]) -> None:
        """Give the client an error instead of an answer, or instead of the rest of it, if it still waits."""
        self._facts.answering_since = time.monotonic()
        raw = _json(error)
        if not stream:
            self.post(endpoint, request_id, raw)
            return
        reply = self._reply or self.open(endpoint, request_id)
        try:
            self.end(endpoint, reply, raw)
        except GatewayConnectionLost:
            self._note(reply.end_over_new_connection(raw))
        except ClientGone:
            self.abort()

    def release(self) -> None:
        """Nothing was sent, and nothing will be: another node or a later try answers."""
        if self._reply is not None:
            self._reply.release()

    def abort(self) -> None:
        """Send nothing more of a stream."""
        if self._reply is not None:
            self._reply.abort()
            self._reply = None

    def _note(self, result: AnswerResult) -> AnswerResult:
        if result is AnswerResult.TAKEN:
            self._facts.answered_at = time.monotonic()
        return result


def _json(error: dict[str, Any]) -> bytes:
    return json.dumps(error, separators=(",", ":")).encode()
