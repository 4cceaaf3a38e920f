"""The way back to the gateway: a POST for a plain answer, WebSocket frames for a stream (spec 1.2).

Exactly one answer or one end; nothing after the end. An answer that cannot be delivered now is kept and tried again
until the task's time is over.
"""

from workernode.gateway.gateways import Gateways
from workernode.gateway.result import AnswerResult
from workernode.gateway.stream import StreamReply

__all__ = ["AnswerResult", "Gateways", "StreamReply"]
