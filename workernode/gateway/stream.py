"""A streamed answer on its way to the gateway: WebSocket frames, and exactly one end (spec 1.2).

No frame leaves before the gateway knows the request's id, none after the end. Frames that cannot leave now are held,
and leave when the gateway can be reached; what `end` could not send is in `held`, for another try later.

A connection that breaks in the middle of a stream does not mean that the client is gone: the gateway knows a stream by
its id, and never closes a connection because a client left. What was on its way may be lost, so the text cannot go on;
the client gets an error and the end over a new connection (`end_over_new_connection`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from workernode.errors import ClientGone, GatewayConnectionLost
from workernode.gateway import timing
from workernode.gateway.connections import Connections
from workernode.gateway.result import AnswerResult, is_final
from workernode.net.waiting import READ, here, sleep
from workernode.net.websocket import HandshakeRefused, Saver, WebSocket
from workernode.protocol import AnswerState
from workernode.task import Endpoint

MAX_HELD = 64 * 1024 * 1024  # bytes of frames held while the gateway cannot be reached
NEVER = float("inf")


class StreamReply:
    """The frames of one stream. Owned by one task, which also looks after the connection while it waits for upstream
    (workernode.net.connection.Watch).

    Attributes:
        due: monotonic; when `tick` wants to be called.
        has_begun: a frame has left, or is about to.
        held: frames that have not left.

    Args:
        earliest: monotonic; no frame leaves before it.
        deadline: monotonic; until then the gateway is tried again.
        show: called with the state of the answer, before anything leaves that makes it true.
        may_send: called before frames leave; waits until they may.
    """

    def __init__(
        self,
        connections: Connections,
        endpoint: Endpoint,
        request_id: str,
        earliest: float,
        deadline: float,
        show: Callable[[AnswerState], None],
        may_send: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._endpoint = endpoint
        self._id = json.dumps(request_id).encode()
        self._chunk_head = b'{"request_id":' + self._id + b',"end":false,"data":'
        self._earliest = earliest
        self._deadline = timing.offered_until(deadline, time.monotonic())
        self._show = show
        self._may_send = may_send
        self._socket: WebSocket | None = None
        self.held: list[bytes] = []
        self._held_bytes = 0
        self._is_reached = False  # the gateway answered when it was last connected to
        self._failures = 0
        self._refused_at: float | None = None
        self._pinged_at = NEVER  # monotonic: the ping that has no pong yet
        self.due = 0.0
        self.has_begun = False

    def connect(self) -> None:
        """Open the connection if that works now; where it does not, it is tried again when it is due.

        Raises:
            ClientGone: the gateway refuses the stream for good.
        """
        if self._socket is not None or time.monotonic() < self.due:
            return
        try:
            self._socket = self._connections.websocket(self._endpoint)
        except HandshakeRefused as exc:
            self._is_reached = True
            now = time.monotonic()
            self._refused_at = (self._refused_at or now) if is_final(exc.status) else None
            if self._refused_at is not None and now - self._refused_at >= timing.REGISTERING_TIME:
                raise ClientGone(f"the gateway refuses the stream with status {exc.status}") from None
            self._retry_later()
        except OSError:
            self._is_reached = False
            self._retry_later()
        else:
            self._is_reached = True
            self._pinged_at = NEVER
            self.due = time.monotonic() + timing.PING_EVERY

    def send(self, chunks: list[bytes], saver: Saver | None = None) -> None:
        """Send each chunk as a frame, in order; those that cannot leave yet are held.

        Args:
            saver: where it is noted what leaves.

        Raises:
            ClientGone: nobody waits any more.
            GatewayConnectionLost: call `end_over_new_connection`.
        """
        self._hold(self._chunk_head + chunk + b"}" for chunk in chunks)
        self._wait_until_registered()
        socket = self._connected(check=not self.has_begun)
        if socket is not None:
            self._flush(socket, saver)

    def hold(self, frames: Iterable[bytes]) -> None:
        """Hold frames that an earlier reply has not sent, as its `held` has them."""
        self._hold(frames)

    def end(self, error: bytes | None = None, *, once: bool = False) -> AnswerResult:
        """Send what is held, the error if there is one, and the one end, with a few tries within OFFER_TIME.

        Nothing can be sent after it.

        Args:
            error: an OpenAI error body; it leaves as the last chunk.
            once: a gateway that cannot be reached is not tried again: the supervisor does that.

        Returns:
            TAKEN; or UNREACHABLE or FAILED, and what could not be sent is in `held`.

        Raises:
            ClientGone: nobody waits any more.
            GatewayConnectionLost: call `end_over_new_connection`.
        """
        if error is not None:
            self._hold([self._chunk_head + error + b"}"])
        self._wait_until_registered()
        socket = self._connected_in_time(once)
        if socket is None:
            return AnswerResult.FAILED if self._is_reached else AnswerResult.UNREACHABLE
        # The last frame may be an error, also of an earlier reply. If the worker died between it and the end, another
        # would send a second error.
        last = [self.held.pop()] if self.held else []
        if last:
            self._begin()
        if self.held:
            self._flush(socket)
        self._send_end(socket, last)
        return AnswerResult.TAKEN

    def end_over_new_connection(self, error: bytes) -> AnswerResult:
        """After GatewayConnectionLost: send the error and the one end over a new connection.

        Args:
            error: an OpenAI error body; it leaves as the last chunk.

        Returns:
            TAKEN, or UNREACHABLE after a few tries within RECONNECT_TIME. The gateway does not report whether the
            client still waited.
        """
        self.held, self._held_bytes, self._failures = [], 0, 0
        until = time.monotonic() + timing.RECONNECT_TIME
        while (now := time.monotonic()) < until:
            try:
                self._socket = self._connections.new_websocket(self._endpoint, until - now)
                self._send_end(self._socket, [self._chunk_head + error + b"}"])
            except ClientGone:  # the gateway does not read
                return AnswerResult.UNREACHABLE
            except (OSError, GatewayConnectionLost):
                self._retry_later()
                sleep(max(0.0, min(self.due, until) - time.monotonic()))
            else:
                return AnswerResult.TAKEN
        return AnswerResult.UNREACHABLE

    def abort(self) -> None:
        """Close the connection without an end: the client is gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def release(self) -> None:
        """Give the connection back unused: no frame was sent, and the task goes back to the broker."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        try:
            socket.ping()
        except OSError:
            socket.close()
        else:
            self._connections.keep(self._endpoint, socket)

    def drop_undelivered(self) -> None:
        """Frames that the kernel has not delivered must leave no more. Another task may call this. The stream's own
        task gets a GatewayConnectionLost if there were some.
        """
        socket = self._socket
        if socket is not None:
            socket.drop_undelivered()

    # --- while the task waits for upstream (net.connection.Watch) ---

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def readable(self) -> None:
        """Read what the gateway sent.

        Raises:
            GatewayConnectionLost: it closed the connection.
        """
        if self._socket is not None:
            if not self._socket.read():
                self._lost(ConnectionError("the gateway closed the connection"))
            elif self._socket.answered:
                self._pinged_at = NEVER

    def tick(self) -> None:
        """Connect, or ping.

        Raises:
            ClientGone: no ping was answered, or the gateway refuses the stream.
            GatewayConnectionLost: the connection broke.
        """
        if self._socket is None:
            self.connect()
            return
        now = time.monotonic()
        if now - self._pinged_at >= timing.GONE_AFTER:
            self._no_pong()
            return
        self.due = now + timing.PING_EVERY
        if self._pinged_at == NEVER:
            self._pinged_at = now
            try:
                self._socket.ping()
            except OSError as exc:
                self._lost(exc)

    def pause(self, seconds: float) -> None:
        """Wait, and look after the connection meanwhile. Raises as `readable` and `tick`."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now >= self.due:
                self.tick()
            interest = [(self.fileno(), READ)] if self.fileno() >= 0 else []
            if here().wait(interest, min(end, self.due)):
                self.readable()

    # --- the parts ---

    def _hold(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self.held.append(frame)
            self._held_bytes += len(frame)
        if self._held_bytes > MAX_HELD:
            raise ClientGone("the gateway could not be reached, and the answer is too large to be kept")

    def _begin(self) -> None:
        if not self.has_begun:
            self._show(AnswerState.STARTED)
            self.has_begun = True

    def _flush(self, socket: WebSocket, saver: Saver | None = None) -> None:
        self._begin()
        self._may_send()
        frames, self.held, self._held_bytes = self.held, [], 0
        try:
            socket.send(frames, saver=saver)
        except OSError as exc:
            self._lost(exc)

    def _send_end(self, socket: WebSocket, frames: list[bytes]) -> None:
        """Send the last frames and the end. A write of so few bytes that fails has not left: no end has.

        Raises:
            ClientGone, GatewayConnectionLost: the end has not left.
        """
        self._show(AnswerState.ENDING)
        self.has_begun = True
        self._may_send()
        try:
            socket.send([*frames, b'{"request_id":' + self._id + b',"end":true}'], ping=True)
        except OSError as exc:
            self._show(AnswerState.STARTED)
            self._lost(exc)
        self._show(AnswerState.ENDED)
        self._socket = None
        self._connections.keep(self._endpoint, socket)

    def _wait_until_registered(self) -> None:
        wait = self._earliest - time.monotonic()
        if wait > 0:
            sleep(wait)

    def _retry_later(self) -> None:
        self._failures += 1
        self.due = time.monotonic() + min(5.0, 0.1 * 2 ** min(self._failures, 10))

    def _connected(self, *, check: bool) -> WebSocket | None:
        """Return the connection, if there is one now.

        Args:
            check: find out first whether the gateway has closed it: what is written to a closed connection is lost
                without an error.
        """
        self.connect()
        if check:
            self.readable()
        return self._socket

    def _connected_in_time(self, once: bool) -> WebSocket | None:
        """Return the connection; None if there is none after a few tries."""
        give_up_at = min(self._deadline, time.monotonic() + timing.OFFER_TIME)
        place = self._connections.offers.place()
        try:
            while (socket := self._connected(check=True)) is None:
                is_registering = self._refused_at is not None
                if self.due >= (self._deadline if is_registering else give_up_at):
                    return None
                if not is_registering and (once or not place.may_wait()):
                    return None
                sleep(max(0.0, self.due - time.monotonic()))
            return socket
        finally:
            place.release()

    def _lost(self, exc: OSError) -> None:
        """The connection broke. As long as nothing was sent over it, another one is opened.

        Raises:
            ClientGone: frames were sent, and the gateway does not read them.
            GatewayConnectionLost: frames were sent, and the connection is closed.
        """
        self.abort()
        if self.has_begun and isinstance(exc, TimeoutError):
            raise ClientGone(f"the gateway does not read: {exc}")
        if self.has_begun:
            raise GatewayConnectionLost(str(exc))
        self._retry_later()

    def _no_pong(self) -> None:
        self.abort()
        if self.has_begun:
            raise ClientGone(f"no ping was answered for {timing.GONE_AFTER:g} s")
        self._retry_later()
