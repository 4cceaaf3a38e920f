"""The way back to the gateway: a POST for a plain answer, WebSocket frames for a stream (spec 1.2).

Exactly one answer or one end; nothing after the end. An answer that cannot be delivered within a second is the caller's
to keep and to offer again.
"""

from workernode.gateway.gateways import Gateways
from workernode.gateway.result import AnswerResult
from workernode.gateway.stream import StreamReply
from workernode.gateway.timing import offered_until

__all__ = ["AnswerResult", "Gateways", "StreamReply", "offered_until"]
