"""The exceptions of one task's life, and the errors that clients get. Pure.

    UpstreamFault            upstream did not give an answer that can be passed on; its `kind` shows what that means for
                             the task and the node (FaultKind; workernode/upstream/faults.py decides)
      CLIENT                 the request itself: its client gets the error, asking again cannot help
      PASSING UNAVAILABLE    asking again may help
      RATE_LIMIT RAMP        asking again later may help; the whole node waits
      KEY QUOTA MODEL        the node, or this one task: how upstream answers other tasks decides
      ADDRESS CERTIFICATE
      REFUSED
      BROKEN                 a part of the answer has left: asking again would repeat text
    ClientGone               nobody waits for the answer any more
    ClaimLost                this node may not answer the task any more: another node does
"""

from __future__ import annotations

import json
from typing import Any

from workernode.protocol import FaultInfo, FaultKind

MAX_MESSAGE = 500  # characters of somebody else's message that are passed to people

# Kinds for which the worker itself asks again.
STILL_BUSY = (FaultKind.PASSING, FaultKind.UNAVAILABLE, FaultKind.RATE_LIMIT, FaultKind.RAMP)
# The code of an answer that came and is none: half a JSON, no completion, a stream without a chunk.
BAD_ANSWER = "bad_answer"


class UpstreamFault(Exception):
    """Upstream did not give an answer that can be passed on.

    Attributes:
        kind: what it means for the task and the node.
        message: one sentence for people, without a secret of the node.
        http_status: 0 where no answer came.
        code: upstream's code or type, else a name of ours; for people and metrics.
        body: the error for the client in OpenAI's shape; upstream's own where it sent one.
        retry_after: seconds that upstream asks to be left alone, or None.
        broke_by: of a BROKEN fault, the kind that it would have before the first chunk.
    """

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        http_status: int = 0,
        body: dict[str, Any] | None = None,
        code: str = "",
        retry_after: float | None = None,
        broke_by: FaultKind | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.http_status = http_status
        self.code = code or kind.value
        self.body = body if body and _is_json(body) else openai_error(message, "upstream_error", code or None)
        self.retry_after = retry_after
        self.broke_by = broke_by

    def without_traceback(self) -> UpstreamFault:
        """Forget how it came. A traceback keeps what was read of an answer in memory, as long as the fault is kept; and
        where a frame of it keeps the fault, both stay until the garbage collector comes.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def copy(self) -> UpstreamFault:
        """Return the same fault without what it came with: traceback, cause and context."""
        return UpstreamFault(
            self.kind, self.message, http_status=self.http_status, body=self.body, code=self.code,
            retry_after=self.retry_after, broke_by=self.broke_by,
        )  # fmt: skip

    def info(self) -> FaultInfo:
        """Return the fault as the supervisor gets it."""
        return FaultInfo(self.kind, self.http_status, self.code[:100], self.message[:MAX_MESSAGE], self.retry_after)


class ClientGone(Exception):
    """Nobody waits for this answer any more: the gateway reports it, or answers no ping."""


class ClaimLost(Exception):
    """This node may not answer the task any more: another node has taken it over, or may have (stream_claim.py)."""


class GatewayConnectionLost(Exception):
    """The connection to the gateway broke in the middle of a stream. The client may still wait."""


def openai_error(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error body in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def timeout_error(seconds: float) -> dict[str, Any]:
    """Return the error for a task that could not be answered within TASK_TIMEOUT seconds (spec 4)."""
    return openai_error(
        f"The request was not answered within {seconds:g} seconds. Please try again.", "timeout", "timeout"
    )


def malformed_error(reason: str) -> dict[str, Any]:
    """Return the error for a message that is not a task."""
    return openai_error(f"The request could not be read: {reason}.", "invalid_request_error", "malformed_task")


def broken_error(message: str) -> dict[str, Any]:
    """Return the error that ends a stream of which the client has seen a part."""
    return openai_error(f"The answer was cut off: {message}", "upstream_error", "stream_interrupted")


def unfit_error(fault: FaultInfo) -> dict[str, Any]:
    """Return the error for a task that was given up because the node cannot serve (spec 5)."""
    if fault.kind in (FaultKind.MODEL, FaultKind.ADDRESS):
        return openai_error(
            "The model does not exist or cannot be reached.", "invalid_request_error", "model_not_found", "model"
        )
    why = {
        FaultKind.KEY: "its provider refuses the credentials",
        FaultKind.QUOTA: "its provider's quota is used up",
        FaultKind.CERTIFICATE: "its provider cannot be reached over a trusted connection",
        FaultKind.REFUSED: "its provider refuses the node's requests",
        FaultKind.RATE_LIMIT: "its provider's rate limit does not lift",
        FaultKind.RAMP: "its provider's rate limit does not lift",
    }
    text = why.get(fault.kind, "its provider is not available")
    return openai_error(f"The model cannot be served at the moment: {text}.", "server_error", "model_unavailable")


def _is_json(body: dict[str, Any]) -> bool:
    """False if the body holds something that `json` can read but not write: NaN, 1e999, nesting at the limit."""
    try:
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True
