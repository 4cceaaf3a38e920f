"""HTTP/1.1 exchanges over kept connections, within the limits of spec 7: no redirects, no answer over 64 MiB, TLS
verified.

Built on http.client: of the well-kept clients the one that costs least a call, and the only one that lets a stream's
reader look after the client meanwhile (docs/decisions/0002-http-client.md).
"""

from __future__ import annotations

import http.client
import io
import ssl
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

import certifi

from workernode.wire import Watch, Wire

MAX_ANSWER = 64 * 1024 * 1024  # bytes, after decompression (spec 7)
# Servers close idle connections after 5 to 75 s; one that is found closed costs nothing, one dropped silently by a
# middlebox costs a timeout, so none is kept for long.
MAX_IDLE = 50.0  # seconds
PIECE = 65536  # bytes read at once


class AnswerTooLarge(ValueError):
    """The answer is larger than MAX_ANSWER."""


def tls_context() -> ssl.SSLContext:
    """Return a context that verifies, by the system's authorities (a company's own, too) and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class Pool:
    """The kept connections to one origin. Shared by the threads of a worker."""

    def __init__(self, origin: tuple[bool, str, int], connect_timeout: float, tls: ssl.SSLContext | None) -> None:
        self._origin = origin
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._idle: deque[tuple[_Connection, float]] = deque()  # no lock: each of its operations is one step

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
    ) -> Exchange:
        """POST the body and return the exchange, of which status and headers have come.

        Args:
            target: path and query.
            deadline: monotonic; nothing waits longer.
            silence: seconds; the longest wait for the next byte.
            watch: a connection to look after while waiting.
            meanwhile: called once the request has been sent, while the server works on it.

        Raises:
            TimeoutError, OSError, http.client.HTTPException: no answer came, or it is not HTTP.
            AnswerTooLarge: it says itself that it is too large.
        """
        was_stale = False
        while True:
            connection = None if was_stale else self._kept()
            reused = connection is not None
            if connection is None:
                left = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
                connection = _Connection(self._origin, left, self._tls)
            wire = connection.wire
            wire.deadline, wire.silence, wire.watch, wire.patient = deadline, silence, watch, True
            try:
                try:
                    connection.post(target, body, headers)
                except ConnectionError:
                    pass  # it stopped reading: its answer, if it gave one before (a 413, say), tells why
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                return Exchange(self, connection, connection.getresponse())
            except ConnectionError:  # http.client.RemoteDisconnected is one
                connection.drop()
                if not reused:
                    raise
                # The server closed the kept connection while the request was on its way: that is no answer, so ask
                # anew. Over a new one: a server that reads requests and resets would else be asked as often as
                # connections are kept.
                was_stale = True
            except BaseException:
                connection.drop()
                raise

    def keep(self, connection: _Connection) -> None:
        """Keep the connection for the next request."""
        connection.wire.watch = None
        now = time.monotonic()
        self._idle.append((connection, now))
        # The last is used first, so those below would stay open for ever: one of them goes with each that comes.
        with suppress(IndexError):  # another thread took them meanwhile
            if now - self._idle[0][1] >= MAX_IDLE:
                self._idle.popleft()[0].drop()

    def close(self) -> None:
        """Close what is kept."""
        while (connection := self._last_kept()) is not None:
            connection[0].drop()

    def _kept(self) -> _Connection | None:
        while (kept := self._last_kept()) is not None:
            connection, since = kept
            if time.monotonic() - since < MAX_IDLE and not connection.wire.stale():
                return connection
            connection.drop()
        return None

    def _last_kept(self) -> tuple[_Connection, float] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None


class Exchange:
    """One answer that is being read. Owned by one thread; ended by `finish` or `abort`."""

    def __init__(self, pool: Pool, connection: _Connection, response: http.client.HTTPResponse) -> None:
        self._pool = pool
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._ended = False
        self._total = 0
        self._left = None if response.chunked else response.length  # bytes still to come; None: not said
        self._inflate: zlib._Decompress | None = None
        if self._left is not None and self._left > MAX_ANSWER:
            raise AnswerTooLarge(f"it is larger than {MAX_ANSWER >> 20} MiB")
        encoding = (self.headers.get("content-encoding") or "identity").strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):  # asked for identity, but such servers exist
            self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # both forms, told apart by their first bytes
        elif encoding != "identity":
            raise http.client.HTTPException(f"content-encoding {encoding[:20]!r} was not asked for")

    def read_some(self) -> bytes:
        """Return the next piece of the body as soon as there is one; b"" at its end.

        Raises:
            TimeoutError, OSError, http.client.HTTPException: it was cut. AnswerTooLarge: it grew past MAX_ANSWER.
        """
        while not self._ended:
            piece = self._read_raw()
            if not piece:
                self._ended = True
                if self._inflate and not self._inflate.eof:
                    raise http.client.IncompleteRead(b"")
                return b""
            if self._inflate:
                piece = self._decompress(piece)
            self._total += len(piece)
            if self._total > MAX_ANSWER:
                raise AnswerTooLarge(f"it is larger than {MAX_ANSWER >> 20} MiB")
            if piece:
                return piece
        return b""

    def read_all(self) -> bytes:
        """Return the rest of the body. Raises as `read_some`."""
        pieces = []
        while piece := self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    def at_hand(self) -> bool:
        """True if `read_some` would very likely return at once: what is pending can wait for it and leave together."""
        reader = self._response.fp
        if self._ended or reader is None:
            return False
        wire = self._connection.wire
        wire.patient = False
        try:
            there = reader.peek(1)  # an io.BufferedReader, from Wire.makefile
        except OSError:
            return True  # read_some will say what it is
        finally:
            wire.patient = True
        # In a chunked body the two bytes that end the last chunk are still there when nothing else is.
        return len(there) > (2 if self._response.chunked else 0)

    def limit(self, deadline: float) -> None:
        """From now on wait no longer than this (monotonic), and look after nobody else."""
        self._connection.wire.deadline = deadline
        self._connection.wire.watch = None

    def finish(self) -> None:
        """Done: keep the connection if its answer was read to the end, else close it."""
        response = self._response
        if (self._ended or self._left == 0) and not response.will_close:
            response.close()
            self._pool.keep(self._connection)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection, so that the server stops working for nobody."""
        self._connection.drop()

    def _read_raw(self) -> bytes:
        response = self._response
        if response.chunked:
            return response.read1(PIECE)
        # http.client's read1 does not count what is left before Python 3.12, and would wait past the end.
        if self._left == 0:
            return b""
        piece: bytes = response.fp.read1(PIECE if self._left is None else min(PIECE, self._left))
        if self._left is not None:
            if not piece:
                raise http.client.IncompleteRead(b"", self._left)
            self._left -= len(piece)
        return piece

    def _decompress(self, piece: bytes) -> bytes:
        assert self._inflate is not None
        try:
            return self._inflate.decompress(piece, MAX_ANSWER - self._total + 1)
        except zlib.error as exc:
            raise http.client.HTTPException(f"content-encoding is wrong: {exc}") from None


class _Connection(http.client.HTTPConnection):
    """http.client over a Wire, connected at once and never again."""

    auto_open = 0

    def __init__(self, origin: tuple[bool, str, int], timeout: float, tls: ssl.SSLContext | None) -> None:
        secure, host, port = origin
        super().__init__(host, port)
        self.default_port = 443 if secure else 80  # what the Host header leaves out
        self.wire = Wire.connect(secure, host, port, timeout, tls)
        self.sock = self._borrowed = _Borrowed(self.wire)

    def post(self, target: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request."""
        self.request("POST", target, body, headers)
        self._borrowed.flush()

    def drop(self) -> None:
        """Close the connection."""
        self.close()
        self.wire.close()


class _Borrowed:
    """The Wire as http.client sees it. http.client closes its socket as soon as it knows that the answer is the last
    one, before the answer was read: here that closes nothing. And it sends head and body one by one: here they leave
    together.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._held = bytearray()

    def sendall(self, data: bytes) -> None:
        self._held += data

    def flush(self) -> None:
        """Send what is held."""
        held, self._held = self._held, bytearray()
        self._wire.sendall(held)

    def makefile(self, mode: str) -> io.BufferedReader:
        return self._wire.reader()

    def close(self) -> None:
        pass
