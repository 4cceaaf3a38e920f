"""Kept connections to all gateways that tasks name: HTTP for POSTs, WebSockets for streams. Threads share it."""

from __future__ import annotations

import ssl
import threading
import time
from collections import OrderedDict, deque

from workernode.gateway import timing
from workernode.gateway.offers import Offers
from workernode.net.http_client import Pool, tls_context
from workernode.net.origin import Origin
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
        self._pools: OrderedDict[Origin, Pool] = OrderedDict()
        self._sockets: OrderedDict[tuple[Origin, str], deque[tuple[WebSocket, float]]] = OrderedDict()
        self._lock = threading.Lock()

    def pool(self, endpoint: Endpoint) -> Pool:
        """Return the HTTP connections to the endpoint's server."""
        origin, tls = endpoint.origin, self._tls_for(endpoint)
        with self._lock:
            pool = self._pools.get(origin)
            if pool is None:
                pool = self._pools[origin] = Pool(origin, self._connect_timeout, tls)
            self._pools.move_to_end(origin)
            dropped = self._pools.popitem(last=False)[1] if len(self._pools) > KEPT_ORIGINS else None
        if dropped:
            dropped.close()
        return pool

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
        key = (endpoint.origin, endpoint.target)
        with self._lock:
            self._sockets.setdefault(key, deque()).append((socket, time.monotonic()))
            self._sockets.move_to_end(key)
            dropped = self._sockets.popitem(last=False)[1] if len(self._sockets) > KEPT_ORIGINS else deque()
            old = [each for each, _ in dropped]
            dropped.clear()  # another may be about to take one
        for each in old:
            each.close()

    def close(self) -> None:
        """Close all kept connections."""
        with self._lock:
            pools, sockets = list(self._pools.values()), [each for kept in self._sockets.values() for each, _ in kept]
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
