"""HTTP/1.1 client with kept connections. Redirects are not followed (spec 7).

It is made for answers that come piece by piece (exchange.py): every wait has a deadline, and another connection can be
watched while it waits (docs/decisions/0002-http.md).
"""

from __future__ import annotations

import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import RemoteDisconnected

from workernode.net.connection import Watch, Wire
from workernode.net.exchange import Exchange
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy

# Servers close idle connections after 5 to 75 s. A closed one is noticed at once, but one that a middlebox dropped
# silently costs a timeout, so none is kept for long.
MAX_IDLE = 50.0  # seconds
# Control characters could end a line of the head early. Nothing lets them come this far; this is the last check.
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Pool:
    """The kept connections to one origin. The tasks of a worker share it.

    Args:
        connect_timeout: seconds for name look-up and connection, and again for the TLS handshake.
        tls: needed where the origin is secure.
        proxy: the way to the origin; None: directly.
    """

    def __init__(
        self, origin: Origin, connect_timeout: float, tls: ssl.SSLContext | None, proxy: Proxy | None = None
    ) -> None:
        self._origin = origin
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._proxy = proxy
        self._idle: deque[tuple[Wire, float]] = deque()  # no lock: each of its operations is atomic

    def post(
        self,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deadline: float,
        silence: float,
        watch: Watch | None = None,
        meanwhile: Callable[[], None] | None = None,
        on_resend: Callable[[], None] | None = None,
    ) -> Exchange:
        """Send a POST and return the exchange once the status and the headers of the answer have arrived.

        A server closes a kept connection when it was idle for too long. Where that crosses with the request, so that
        the server cannot have read any of it, the request is sent once more over a new connection.

        Args:
            target: path and query.
            deadline: monotonic; nothing waits longer.
            silence: seconds; the longest wait for the next byte.
            watch: another connection, looked after while this one waits.
            meanwhile: called when the request has been sent, each time it is, while the server works on it.
            on_resend: called before the request is sent once more.

        Raises:
            TimeoutError, OSError, HTTPException: no answer came, or the answer is not HTTP.
            ValueError: target or headers hold characters that cannot be sent.
            AnswerTooLarge: the answer announces a length over the limit.
        """
        request = self._request("POST", target, headers, body)
        return self._exchange(request, deadline, silence, watch, meanwhile, on_resend)

    def get(self, target: str, headers: Mapping[str, str], *, deadline: float, silence: float) -> Exchange:
        """Send a GET. Arguments and exceptions are those of `post`."""
        return self._exchange(self._request("GET", target, headers, None), deadline, silence)

    def _request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        if self._proxy is None or self._origin.secure:
            return _request(method, self._origin, target, headers, body)
        # A proxy that reads requests gets the whole address (RFC 9112, 3.2.2).
        if self._proxy.authorization:
            headers = {**headers, "Proxy-Authorization": self._proxy.authorization}
        return _request(method, self._origin, f"http://{self._origin.authority}{target}", headers, body)

    def _exchange(
        self,
        request: bytes,
        deadline: float,
        silence: float,
        watch: Watch | None = None,
        meanwhile: Callable[[], None] | None = None,
        on_resend: Callable[[], None] | None = None,
    ) -> Exchange:
        wire = self._take_kept()
        if wire is not None:
            wire.limit(deadline, silence, watch)
            exchange = self._try_kept(wire, request, meanwhile)
            if exchange is not None:
                return exchange
            if on_resend is not None:
                on_resend()
        left = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
        wire = Wire.connect(self._origin, left, self._tls, self._proxy)
        wire.limit(deadline, silence, watch)
        try:
            return self._send(wire, request, meanwhile)
        except BaseException:
            wire.close()
            raise

    def _try_kept(self, wire: Wire, request: bytes, meanwhile: Callable[[], None] | None) -> Exchange | None:
        """Return the exchange over a kept connection; None if the server had closed it and cannot have read any of the
        request.
        """
        try:
            return self._send(wire, request, meanwhile)
        except ConnectionError as exc:
            # A reset may come from a server that has just read the request, so that only an orderly close counts.
            is_close = isinstance(exc, RemoteDisconnected) or not wire.handed_over
            was_read = not is_close or wire.may_have_been_read()
            wire.close()
            if was_read:
                raise
            return None
        except BaseException:
            wire.close()
            raise

    def _send(self, wire: Wire, request: bytes, meanwhile: Callable[[], None] | None) -> Exchange:
        # A server that stopped reading may have answered first (413, for example).
        with suppress(ConnectionError):
            wire.sendall(request)
        if meanwhile is not None:
            meanwhile()
        return Exchange(wire, self.keep)

    def keep(self, wire: Wire) -> None:
        """Keep the connection for the next request."""
        wire.watch = None
        now = time.monotonic()
        self._idle.append((wire, now))
        # The newest is used first, so the oldest would stay open for ever: one old connection is closed for each one
        # that is kept.
        with suppress(IndexError):  # another took them meanwhile
            if now - self._idle[0][1] >= MAX_IDLE:
                self._idle.popleft()[0].close()

    def close(self) -> None:
        """Close the kept connections."""
        while (kept := self._newest()) is not None:
            kept[0].close()

    def _take_kept(self) -> Wire | None:
        while (kept := self._newest()) is not None:
            wire, since = kept
            if time.monotonic() - since < MAX_IDLE and not wire.stale():
                return wire
            wire.close()
        return None

    def _newest(self) -> tuple[Wire, float] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None


def _request(method: str, origin: Origin, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return head and body as one piece of bytes."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines.append(f"Host: {origin.authority}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if " " in target or any(map(_UNSENDABLE.search, lines)):
        raise ValueError("the request's target or one of its headers holds what cannot be sent")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
