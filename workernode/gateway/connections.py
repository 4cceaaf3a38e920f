"""Kept connections to all gateways that tasks name: HTTP for POSTs, WebSockets for streams. All tasks share them."""

from __future__ import annotations

import ssl
import threading
import time
from collections import OrderedDict, deque

from workernode.gateway import timing
from workernode.gateway.offers import Offers
from workernode.net.http_client import Pool
from workernode.net.origin import Origin
from workernode.net.tls import tls_context
from workernode.net.waiting import call
from workernode.net.websocket import WebSocket
from workernode.task import Endpoint

KEPT_ORIGINS = 64  # gateways whose connections are kept; addresses come from messages, so there has to be a limit


class Connections:
    """The connections to gateways. Owned by a worker process; its tasks take connections and give them back.

    Args:
        connect_timeout: seconds for a connection, and again for its handshakes.
        slots: of the worker.
    """

    def __init__(self, connect_timeout: float, slots: int) -> None:
        self.offers = Offers(slots)
        self._connect_timeout = connect_timeout  # seconds
        self._tls: ssl.SSLContext | None = None
        # By origin, the one that was used last at the end; with the moment of that (monotonic).
        self._pools: OrderedDict[Origin, tuple[Pool, float]] = OrderedDict()
        self._sockets: OrderedDict[tuple[Origin, str], deque[tuple[WebSocket, float]]] = OrderedDict()
        self._lock = threading.Lock()

    def pool(self, endpoint: Endpoint) -> Pool:
        """Return the HTTP connections to the endpoint's server."""
        origin, tls = endpoint.origin, self._tls_for(endpoint)
        now = time.monotonic()
        with self._lock:
            known = self._pools.get(origin)
            pool = known[0] if known else Pool(origin, self._connect_timeout, tls)
            self._pools[origin] = pool, now
            self._pools.move_to_end(origin)
            dropped = [] if known else self._unused(now)
        for each in dropped:
            each.close()
        return pool

    def _unused(self, now: float) -> list[Pool | WebSocket]:
        """Take out the connections to gateways that got nothing for GONE_AFTER, and to the oldest of too many gateways.

        A gateway that is gone for good leaves connections behind, and nobody else would close them.
        """
        unused: list[Pool | WebSocket] = []
        while self._pools:
            pool, used = next(iter(self._pools.values()))
            if now - used < timing.GONE_AFTER and len(self._pools) <= KEPT_ORIGINS:
                break
            self._pools.popitem(last=False)
            unused.append(pool)
        while self._sockets:
            kept = next(iter(self._sockets.values()))
            if kept and now - kept[-1][1] < timing.GONE_AFTER and len(self._sockets) <= KEPT_ORIGINS:
                break
            self._sockets.popitem(last=False)
            unused += [socket for socket, _ in kept]
            kept.clear()  # another may be about to take one
        return unused

    def websocket(self, endpoint: Endpoint) -> WebSocket:
        """Return an open WebSocket: a kept one whose gateway has read everything it was sent, else a new one.

        Raises:
            HandshakeRefused, OSError: the gateway cannot be reached.
        """
        kept = self._kept_websocket((endpoint.origin, endpoint.target))
        return kept or self.new_websocket(endpoint, self._connect_timeout)

    def new_websocket(self, endpoint: Endpoint, timeout: float) -> WebSocket:
        """Return a new WebSocket.

        Args:
            timeout: seconds for the connection, and again for its handshakes; CONNECT_TIMEOUT if that is shorter.

        Raises:
            HandshakeRefused, OSError: the gateway cannot be reached.
        """
        limit = min(timeout, self._connect_timeout)
        return WebSocket.connect(endpoint.origin, endpoint.target, self._tls_for(endpoint), limit)

    def _kept_websocket(self, key: tuple[Origin, str]) -> WebSocket | None:
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
            if not alive or idle > (timing.KEPT_IDLE if socket.answered else timing.GONE_AFTER):
                socket.close()
            elif socket.answered:
                return socket
            else:
                with self._lock:
                    kept.append((socket, since))
        return None

    def keep(self, endpoint: Endpoint, socket: WebSocket) -> None:
        """Keep a WebSocket for another stream. A ping must have been sent behind its last frame."""
        key, now = (endpoint.origin, endpoint.target), time.monotonic()
        with self._lock:
            is_new = key not in self._sockets
            self._sockets.setdefault(key, deque()).append((socket, now))
            self._sockets.move_to_end(key)
            dropped = self._unused(now) if is_new else []
        for each in dropped:
            each.close()

    def close(self) -> None:
        """Close all kept connections."""
        with self._lock:
            pools = [pool for pool, _ in self._pools.values()]
            sockets = [each for kept in self._sockets.values() for each, _ in kept]
            self._pools.clear()
            self._sockets.clear()
        for pool in pools:
            pool.close()
        for socket in sockets:
            socket.close()

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if not endpoint.secure:
            return None
        if self._tls is None:
            self._tls = call(tls_context)  # reads files. No lock is held: two may do it
        return self._tls
