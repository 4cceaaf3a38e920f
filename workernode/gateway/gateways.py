"""All gateways that tasks name: the door of this package. Shared by the tasks of a worker."""

from __future__ import annotations

from collections.abc import Callable

from workernode.gateway import timing
from workernode.gateway.connections import Connections
from workernode.gateway.post import post_answer
from workernode.gateway.result import AnswerResult
from workernode.gateway.stream import StreamReply
from workernode.net.dial import connect
from workernode.protocol import AnswerState
from workernode.task import Endpoint


class Gateways:
    """Sends answers to gateways, over kept connections.

    Args:
        connect_timeout: seconds for a connection, and again for its handshakes.
        slots: of the worker; a share of them may wait for gateways that are away.
    """

    def __init__(self, connect_timeout: float, slots: int) -> None:
        self._connect_timeout = connect_timeout
        self.connections = Connections(connect_timeout, slots)

    def post(
        self, endpoint: Endpoint, request_id: str, data: bytes, deadline: float, *, once: bool = False
    ) -> AnswerResult:
        """Deliver a plain answer, with a few tries within OFFER_TIME.

        Args:
            data: JSON, passed on as it is.
            deadline: monotonic; one offer is made even when it is over.
            once: a gateway that cannot take it is not tried again: the supervisor does that.
        """
        return post_answer(self.connections, endpoint, request_id, data, deadline, once=once)

    def can_reach(self, endpoint: Endpoint) -> bool:
        """Return whether a connection to the gateway's server can be opened now."""
        try:
            connect(endpoint.host, endpoint.port, self._connect_timeout).close()
        except OSError:
            return False
        return True

    def stream(
        self,
        endpoint: Endpoint,
        request_id: str,
        received_at: float,
        deadline: float,
        show: Callable[[AnswerState], None],
        may_send: Callable[[], None] = lambda: None,
    ) -> StreamReply:
        """Return the way back for one stream; it connects when `connect` is called, or when it has something to send.

        Args:
            received_at: monotonic; when the task was received.
            deadline: monotonic.
            show: called with the state of the answer, before anything leaves that makes it true.
            may_send: called before frames leave; waits until they may.
        """
        earliest = received_at + timing.FRAME_AFTER
        return StreamReply(self.connections, endpoint, request_id, earliest, deadline, show, may_send)
