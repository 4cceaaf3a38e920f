"""The way back to the gateway: POST for a plain answer, WebSocket frames for a stream (spec 1.2), over kept
connections.

What it promises: exactly one answer or one end; nothing after the end; no frame before the gateway knows the id; an
answer that cannot be delivered now is kept and tried again until the task's time is over.
"""

from __future__ import annotations

import json
import select
import ssl
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from http.client import HTTPException

from tenacity import RetryCallState, retry_if_exception_type, wait_random_exponential

from workernode import __version__
from workernode.errors import ClientGone
from workernode.net.http_client import AnswerTooLarge, Pool, tls_context
from workernode.net.websocket import HandshakeRefused, WebSocket
from workernode.protocol import AnswerState
from workernode.retry import call_with_retries
from workernode.task import Endpoint

POST_TIME = 10.0  # seconds: the gateway's POST can hang where its client has just left
NOT_YET_TIME = 1.2  # seconds that a 404 may mean "not registered yet": the gateway publishes first, registers after
FRAME_AFTER = 0.1  # seconds after the task was received, before which no frame leaves: same reason
PING_EVERY = 20.0  # seconds
GONE_AFTER = 60.0  # seconds without a pong: the client is gone
SHORTEST_OFFER = 3.0  # seconds: even an answer that is late is offered so long
KEPT_ORIGINS = 64  # gateways whose connections are kept; addresses come from messages, so it has to have an end
KEPT_IDLE = 50.0  # seconds
MAX_HELD = 64 * 1024 * 1024  # bytes of frames held while the gateway cannot be reached


class Delivery(Enum):
    """How an answer reached the gateway."""

    TAKEN = "taken"
    GONE = "gone"  # nobody waits for it
    UNCONFIRMED = "unconfirmed"  # it was sent, and the gateway said nothing
    UNREACHABLE = "unreachable"  # the gateway could not be reached in the task's time
    REFUSED = "refused"  # the gateway does not take it, and says so


class _Trouble(Exception):
    """The gateway could not take it now."""


class _NotYet(Exception):
    """404."""


class Gateways:
    """All gateways that tasks name, and the kept connections to them. Shared by the threads of a worker."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._tls: ssl.SSLContext | None = None
        self._pools: OrderedDict[tuple[bool, str, int], Pool] = OrderedDict()
        self._sockets: OrderedDict[tuple[tuple[bool, str, int], str], deque[tuple[WebSocket, float]]] = OrderedDict()
        self._lock = threading.Lock()

    def post(self, endpoint: Endpoint, request_id: str, data: bytes, deadline: float) -> Delivery:
        """Deliver a plain answer, however long the gateway needs until the deadline.

        Args:
            data: JSON, passed on as it is.
            deadline: monotonic; one offer is made even when it is over.
        """
        body = b'{"request_id":' + json.dumps(request_id).encode() + b',"data":' + data + b"}"
        deadline = max(deadline, time.monotonic() + SHORTEST_OFFER)
        first_404: list[float] = []

        def stop(state: RetryCallState) -> bool:
            exc = state.outcome.exception() if state.outcome else None
            now = time.monotonic()
            if isinstance(exc, _NotYet):
                first_404[:] = first_404 or [now]
                return now - first_404[0] >= NOT_YET_TIME or now >= deadline
            return now + state.upcoming_sleep >= deadline

        try:
            return call_with_retries(
                lambda: self._post(endpoint, body, deadline),
                retry=retry_if_exception_type((_Trouble, _NotYet)),
                wait=_pause,
                stop=stop,
                sleep=time.sleep,
            )
        except _NotYet:
            return Delivery.GONE
        except _Trouble:
            return Delivery.UNREACHABLE

    def _post(self, endpoint: Endpoint, body: bytes, deadline: float) -> Delivery:
        sent: list[bool] = []
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"WorkerNode/{__version__}",
        }
        try:
            exchange = self._pool(endpoint).post(
                endpoint.target,
                headers,
                body,
                deadline=deadline,
                silence=POST_TIME,
                meanwhile=lambda: sent.append(True),
            )
            exchange.limit(time.monotonic() + POST_TIME)
            exchange.read_all()
            exchange.finish()
        except TimeoutError:
            if sent:
                return Delivery.UNCONFIRMED
            raise _Trouble from None
        except (OSError, HTTPException, AnswerTooLarge):
            raise _Trouble from None
        if exchange.status == 404:
            raise _NotYet
        if exchange.status < 300:
            return Delivery.TAKEN
        if _says_no(exchange.status):
            return Delivery.REFUSED
        raise _Trouble

    def stream(
        self,
        endpoint: Endpoint,
        request_id: str,
        received_at: float,
        deadline: float,
        visible: Callable[[AnswerState], None],
    ) -> StreamReply:
        """Return the way back for one stream; it connects when it is told to, or has something to say.

        Args:
            received_at: monotonic; when the task was received.
            visible: told what may have left, before it leaves.
        """
        return StreamReply(self, endpoint, request_id, received_at + FRAME_AFTER, deadline, visible)

    def socket(self, endpoint: Endpoint) -> WebSocket:
        """Return an open WebSocket: a kept one that has read everything it was sent, else a new one.

        Raises:
            HandshakeRefused, OSError: the gateway cannot be reached.
        """
        key = (endpoint.origin, endpoint.target)
        with self._lock:
            kept = self._sockets.get(key)
            tries = len(kept) if kept else 0
        while kept and tries:
            tries -= 1
            with self._lock:
                if not kept:
                    break
                socket, since = kept.popleft()
            alive = socket.read()
            idle = time.monotonic() - since
            if not alive or idle > (KEPT_IDLE if socket.answered else GONE_AFTER):
                socket.close()
            elif socket.answered:
                return socket
            else:
                with self._lock:
                    kept.append((socket, since))
        return WebSocket.connect(endpoint.origin, endpoint.target, self._tls_for(endpoint), self._connect_timeout)

    def keep(self, endpoint: Endpoint, socket: WebSocket) -> None:
        """Keep a WebSocket behind whose last frame a ping was sent."""
        key = (endpoint.origin, endpoint.target)
        with self._lock:
            self._sockets.setdefault(key, deque()).append((socket, time.monotonic()))
            self._sockets.move_to_end(key)
            dropped = self._sockets.popitem(last=False)[1] if len(self._sockets) > KEPT_ORIGINS else deque()
            old = [each for each, _ in dropped]
            dropped.clear()  # another thread may be about to take one
        for each in old:
            each.close()

    def _pool(self, endpoint: Endpoint) -> Pool:
        tls = self._tls_for(endpoint)
        with self._lock:
            pool = self._pools.get(endpoint.origin)
            if pool is None:
                pool = self._pools[endpoint.origin] = Pool(endpoint.origin, self._connect_timeout, tls)
            self._pools.move_to_end(endpoint.origin)
            dropped = self._pools.popitem(last=False)[1] if len(self._pools) > KEPT_ORIGINS else None
        if dropped:
            dropped.close()
        return pool

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if not endpoint.secure:
            return None
        with self._lock:
            if self._tls is None:
                self._tls = tls_context()
            return self._tls


class StreamReply:
    """The frames of one stream. Owned by one thread; it is also what Upstream looks after while it waits (Client)."""

    def __init__(
        self,
        gateways: Gateways,
        endpoint: Endpoint,
        request_id: str,
        earliest: float,
        deadline: float,
        visible: Callable[[AnswerState], None],
    ) -> None:
        self._gateways = gateways
        self._endpoint = endpoint
        self._id = json.dumps(request_id).encode()
        self._chunk_head = b'{"request_id":' + self._id + b',"end":false,"data":'
        self._earliest = earliest
        self._deadline = max(deadline, time.monotonic() + SHORTEST_OFFER)
        self._visible = visible
        self._socket: WebSocket | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._failures = 0
        self._refused_at: float | None = None
        self._asked_at = float("inf")  # monotonic: the ping that awaits its pong
        self.due = 0.0
        self.begun = False

    def connect(self) -> None:
        """Open the connection if that works now; where it does not, it is tried again when it is due.

        Raises:
            ClientGone: the gateway answers that there is nobody.
        """
        if self._socket is not None or time.monotonic() < self.due:
            return
        try:
            self._socket = self._gateways.socket(self._endpoint)
        except HandshakeRefused as exc:
            now = time.monotonic()
            self._refused_at = self._refused_at or now
            if _says_no(exc.status) and now - self._refused_at >= NOT_YET_TIME:
                raise ClientGone(f"the gateway refuses the stream with status {exc.status}") from None
            self._retry_later()
        except OSError:
            self._retry_later()
        else:
            self._asked_at = float("inf")
            self.due = time.monotonic() + PING_EVERY

    def send(self, chunks: list[bytes]) -> None:
        """Send each chunk as a frame, in order; those that cannot leave yet are held.

        Raises:
            ClientGone: nobody waits any more.
        """
        self._hold(self._chunk_head + chunk + b"}" for chunk in chunks)
        self._wait_until_known()
        socket = self._connected()
        if socket is not None:
            self._flush(socket)

    def end(self, error: bytes | None = None) -> Delivery:
        """Send what is held, the error if there is one, and the one end. Nothing can be sent after it.

        Args:
            error: an OpenAI error body; it leaves as the last chunk.

        Returns:
            TAKEN, or UNREACHABLE if the gateway could not be reached in the task's time.

        Raises:
            ClientGone: nobody waits any more.
        """
        if error is not None:
            self._hold([self._chunk_head + error + b"}"])
        self._wait_until_known()
        while (socket := self._connected()) is None:
            if self.due >= self._deadline:
                return Delivery.UNREACHABLE
            time.sleep(max(0.0, self.due - time.monotonic()))
        if self._held:
            self._flush(socket)
        self._visible(AnswerState.ENDING)
        try:
            socket.send([b'{"request_id":' + self._id + b',"end":true}'], ping=True)
        except OSError as exc:
            raise self._gone(str(exc)) from None
        self._visible(AnswerState.ENDED)
        self._socket = None
        self._gateways.keep(self._endpoint, socket)
        return Delivery.TAKEN

    def abort(self) -> None:
        """Give the connection up without an end: its client is gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def release(self) -> None:
        """Give the connection back unused: nothing was said, and the task goes back to the broker."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        try:
            socket.ping()
        except OSError:
            socket.close()
        else:
            self._gateways.keep(self._endpoint, socket)

    # --- what Upstream asks of a Client ---

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def readable(self) -> None:
        """Raises ClientGone if the gateway closed the connection."""
        if self._socket is not None:
            if not self._socket.read():
                self._lost("the gateway closed the connection")
            elif self._socket.answered:
                self._asked_at = float("inf")

    def tick(self) -> None:
        """Connect, or ping. Raises ClientGone if no ping is answered."""
        if self._socket is None:
            self.connect()
            return
        now = time.monotonic()
        if now - self._asked_at >= GONE_AFTER:
            self._lost(f"no ping was answered for {GONE_AFTER:g} s")
            return
        self.due = now + PING_EVERY
        if self._asked_at == float("inf"):
            self._asked_at = now
            try:
                self._socket.ping()
            except OSError as exc:
                self._lost(str(exc))

    def pause(self, seconds: float) -> None:
        """Wait, looking after the connection. Raises ClientGone."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now >= self.due:
                self.tick()
            poll = select.poll()
            if self.fileno() >= 0:
                poll.register(self.fileno(), select.POLLIN)
            if poll.poll(max(0.0, min(end, self.due) - now) * 1000 + 1):
                self.readable()

    # ---

    def _hold(self, frames: object) -> None:
        for frame in frames:  # type: ignore[attr-defined]
            self._held.append(frame)
            self._held_bytes += len(frame)
        if self._held_bytes > MAX_HELD:
            raise ClientGone("the gateway could not be reached, and the answer is too large to be kept")

    def _flush(self, socket: WebSocket) -> None:
        if not self.begun:
            self._visible(AnswerState.STARTED)
            self.begun = True
        frames, self._held, self._held_bytes = self._held, [], 0
        try:
            socket.send(frames)
        except OSError as exc:
            raise self._gone(str(exc)) from None

    def _wait_until_known(self) -> None:
        """The gateway registers a stream only after publishing it, and drops frames of ids that it does not know."""
        wait = self._earliest - time.monotonic()
        if wait > 0:
            time.sleep(wait)

    def _retry_later(self) -> None:
        self._failures += 1
        self.due = time.monotonic() + min(5.0, 0.1 * 2 ** min(self._failures, 10))

    def _connected(self) -> WebSocket | None:
        """Return the connection, if there is one now. Before its first frame it is looked at: it may have been closed
        while upstream was asked.
        """
        self.connect()
        if not self.begun:
            self.readable()
        return self._socket

    def _lost(self, why: str) -> None:
        """The connection is gone. As long as nothing was sent over it, that says nothing of the client: another is
        opened.

        Raises:
            ClientGone: something was sent.
        """
        if self.begun:
            raise self._gone(why)
        self.abort()
        self._retry_later()

    def _gone(self, why: str) -> ClientGone:
        self.abort()
        return ClientGone(why)


def _says_no(status: int) -> bool:
    """True if a gateway that answers so will not answer otherwise in a while. 0: what it said was no HTTP."""
    return 0 < status < 500 and status not in (408, 425, 429)


_backoff = wait_random_exponential(multiplier=0.2, max=5.0, min=0.1)


def _pause(state: RetryCallState) -> float:
    """Seconds before the answer is offered again. A 404 is asked about quickly: the id is registered within moments."""
    exc = state.outcome.exception() if state.outcome else None
    return min(0.1 * state.attempt_number, 0.4) if isinstance(exc, _NotYet) else _backoff(state)
