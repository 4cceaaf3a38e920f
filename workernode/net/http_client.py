"""HTTP/1.1 client with kept connections, within the limits of spec 7: redirects are not followed, no answer is larger
than 64 MiB, TLS is verified.

It is made for answers that come piece by piece: every wait has a deadline, and another connection can be watched while
it waits (docs/decisions/0002-http.md).
"""

from __future__ import annotations

import os
import re
import ssl
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

import certifi

from workernode.net.connection import Watch, Wire
from workernode.net.errors import AnswerTooLarge
from workernode.net.http_parser import ResponseParser
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy

MAX_ANSWER = 64 * 1024 * 1024  # bytes, after decompression (spec 7)
# Servers close idle connections after 5 to 75 s. A closed one is noticed at once, but one that a middlebox dropped
# silently costs a timeout, so none is kept for long.
MAX_IDLE = 50.0  # seconds
UNREADABLE_ENCODINGS = ("br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "aes128gcm")
# Control characters could end a line of the head early. Nothing lets them come this far; this is the last check.
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


# Files of further authorities, as requests and curl read them. SSL_CERT_FILE is read by OpenSSL itself.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def tls_context(ca: str = "") -> ssl.SSLContext:
    """Return a TLS context that verifies certificates: by the system's authorities, certifi's and CA_VARIABLES'.

    Args:
        ca: the path of a PEM file, or of a folder of hashed ones, with further authorities; "" for none.

    Raises:
        OSError: such a file cannot be read, or holds no certificate; `filename` says which.
    """
    context = ssl.create_default_context()
    for path in (certifi.where(), *(os.environ.get(name) for name in CA_VARIABLES), ca):
        if not path:
            continue
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise OSError(error.errno, "it holds no certificate in PEM", path) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
    return context


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
        return Exchange(self, wire)

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


class Exchange:
    """One answer that is being read. One task owns it; `finish` or `abort` ends it.

    Attributes: status; headers (by lower-case name).

    Args:
        pool: the pool that gets the connection back.
        wire: the connection on which the request was sent. The constructor waits for the head of the answer.
    """

    def __init__(self, pool: Pool, wire: Wire) -> None:
        self._pool = pool
        self._wire = wire
        self._parser = parser = ResponseParser()
        while not parser.has_head:
            self._receive()
        self.status, self.headers = parser.status, parser.headers
        self._read_to_end = False
        self._total = 0  # bytes of the body that were returned
        self._inflate: zlib._Decompress | None = None
        if parser.length is not None and parser.length > MAX_ANSWER:
            raise AnswerTooLarge(f"its answer is larger than {MAX_ANSWER >> 20} MiB")
        if encoding := self.headers.get("content-encoding"):
            self._decode(encoding.strip().lower())

    def read_some(self) -> bytes:
        """Return the next piece of the body as soon as there is one; b"" at the end of the body.

        Raises:
            TimeoutError, OSError, HTTPException: the body was cut.
            AnswerTooLarge: the body grew past MAX_ANSWER.
        """
        while not self._read_to_end:
            piece = self._parser.take()
            if not piece:
                if not self._parser.ended:
                    self._receive()
                    continue
                self._read_to_end = True
                if self._inflate and not self._inflate.eof:
                    raise IncompleteRead(b"")
                return b""
            if self._inflate:
                piece = self._decompress(piece)
            self._total += len(piece)
            if self._total > MAX_ANSWER:
                raise AnswerTooLarge(f"its answer is larger than {MAX_ANSWER >> 20} MiB")
            if piece:
                return piece
        return b""

    def read_all(self) -> bytes:
        """Return the rest of the body. Raises as `read_some` does."""
        pieces = []
        while piece := self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    def at_hand(self) -> bool:
        """Return whether `read_some` would return at once, so that its piece can leave together with the last one.

        False where `read_some` would raise: what came before the error leaves first.
        """
        if self._read_to_end:
            return False
        if not self._parser.has_more():
            self._wire.patient = False
            try:
                self._receive()
            except (OSError, HTTPException):
                return False  # read_some will raise it
            finally:
                self._wire.patient = True
        return self._parser.has_more()

    def limit(self, deadline: float) -> None:
        """From now on wait no longer than this (monotonic), and watch no other connection."""
        self._wire.deadline = deadline
        self._wire.watch = None

    def shorten(self, deadline: float) -> None:
        """From now on wait no longer than this (monotonic), if that is sooner than before."""
        self._wire.deadline = min(self._wire.deadline, deadline)

    def limit_silence(self, seconds: float) -> None:
        """From now on wait no longer than this for the next byte."""
        self._wire.silence = seconds

    def finish(self) -> None:
        """Keep the connection if the answer was read to its end, else close it."""
        if self._parser.is_reusable():
            self._pool.keep(self._wire)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection, so that the server stops working on an answer that nobody wants."""
        self._parser.release()
        self._wire.close()

    def _receive(self) -> None:
        """Feed the parser with the next bytes; wait for them if the wire is patient."""
        if self._parser.fault is not None:
            raise self._parser.fault
        data = self._wire.receive()
        if data is not None:
            self._parser.feed(data)

    def _decode(self, encoding: str) -> None:
        """Prepare for an encoding that we did not ask for. A name that is no encoding (`none`, `utf-8`) changes
        nothing, as curl, browsers and urllib3 have it.
        """
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # detects gzip or zlib by the first bytes
        elif encoding in UNREADABLE_ENCODINGS or "," in encoding:
            raise HTTPException(f"the content-encoding {encoding[:20]!r} of its answer was not asked for")

    def _decompress(self, piece: bytes) -> bytes:
        assert self._inflate is not None
        try:
            return self._inflate.decompress(piece, MAX_ANSWER - self._total + 1)
        except zlib.error as exc:
            raise HTTPException(f"its answer does not fit its content-encoding ({exc})") from None


def _request(method: str, origin: Origin, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return head and body as one piece of bytes."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines.append(f"Host: {origin.authority}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if " " in target or any(map(_UNSENDABLE.search, lines)):
        raise ValueError("the request's target or one of its headers holds what cannot be sent")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
