"""HTTP/1.1 exchanges over kept connections, within the limits of spec 7: no redirects, no answer over 64 MiB, TLS
verified.

Answers are taken apart by httptools, Node's parser: it waits for nothing itself, so that a stream's reader can look
after the client meanwhile (docs/decisions/0002-http.md). Its faults are raised as those of http.client, which people
know.
"""

from __future__ import annotations

import re
import ssl
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

import certifi
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from workernode.net.connection import Watch, Wire

MAX_ANSWER = 64 * 1024 * 1024  # bytes, after decompression (spec 7)
# Servers close idle connections after 5 to 75 s; one that is found closed costs nothing, one dropped silently by a
# middlebox costs a timeout, so none is kept for long.
MAX_IDLE = 50.0  # seconds
MAX_HEAD, MOST_FIELDS = 65536, 100  # bytes and fields of an answer's head, as http.client has it
# What would end a line of the head early. Nothing of that kind comes so far; it is asked for once more where it counts.
UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class AnswerTooLarge(ValueError):
    """The answer is larger than MAX_ANSWER."""


def tls_context() -> ssl.SSLContext:
    """Return a context that verifies, by the system's authorities (a company's own, too) and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def host_of(origin: tuple[bool, str, int]) -> str:
    """Return what the Host header says (RFC 9110, 7.2).

    Args:
        origin: whether it is TLS, host, port.
    """
    secure, host, port = origin
    shown = f"[{host}]" if ":" in host else host
    return shown if port == (443 if secure else 80) else f"{shown}:{port}"


class Pool:
    """The kept connections to one origin. Shared by the threads of a worker."""

    def __init__(self, origin: tuple[bool, str, int], connect_timeout: float, tls: ssl.SSLContext | None) -> None:
        self._origin = origin
        self._host = host_of(origin)
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._idle: deque[tuple[Wire, float]] = deque()  # no lock: each of its operations is one step

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
            TimeoutError, OSError, HTTPException: no answer came, or it is not HTTP.
            ValueError: target or headers hold what cannot be sent.
            AnswerTooLarge: it says itself that it is too large.
        """
        request = _request(self._host, target, headers, body)
        was_stale = False
        while True:
            wire = None if was_stale else self._kept()
            reused = wire is not None
            if wire is None:
                left = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
                wire = Wire.connect(*self._origin, left, self._tls)
            wire.deadline, wire.silence, wire.watch, wire.patient = deadline, silence, watch, True
            try:
                try:
                    wire.sendall(request)
                except ConnectionError:
                    pass  # it stopped reading: its answer, if it gave one before (a 413, say), tells why
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                return Exchange(self, wire)
            except ConnectionError:  # RemoteDisconnected is one
                wire.close()
                if not reused:
                    raise
                # The server closed the kept connection while the request was on its way: that is no answer, so ask
                # anew. Over a new one: a server that reads requests and resets would else be asked as often as
                # connections are kept.
                was_stale = True
            except BaseException:
                wire.close()
                raise

    def keep(self, wire: Wire) -> None:
        """Keep the connection for the next request."""
        wire.watch = None
        now = time.monotonic()
        self._idle.append((wire, now))
        # The last is used first, so those below would stay open for ever: one of them goes with each that comes.
        with suppress(IndexError):  # another thread took them meanwhile
            if now - self._idle[0][1] >= MAX_IDLE:
                self._idle.popleft()[0].close()

    def close(self) -> None:
        """Close what is kept."""
        while (kept := self._last_kept()) is not None:
            kept[0].close()

    def _kept(self) -> Wire | None:
        while (kept := self._last_kept()) is not None:
            wire, since = kept
            if time.monotonic() - since < MAX_IDLE and not wire.stale():
                return wire
            wire.close()
        return None

    def _last_kept(self) -> tuple[Wire, float] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None


class Exchange:
    """One answer that is being read. Owned by one thread; ended by `finish` or `abort`.

    Args:
        pool: to which the connection goes back.
        wire: on which the request was sent. The head of the answer is waited for here.
    """

    def __init__(self, pool: Pool, wire: Wire) -> None:
        self._pool = pool
        self._wire = wire
        self._answer = answer = _Answer()
        while not answer.has_head:
            self._receive()
        self.status, self.headers = answer.status, answer.headers
        self._told = False  # that it has ended
        self._total = 0
        self._inflate: zlib._Decompress | None = None
        if answer.length is not None and answer.length > MAX_ANSWER:
            raise AnswerTooLarge(f"it is larger than {MAX_ANSWER >> 20} MiB")
        encoding = (self.headers.get("content-encoding") or "identity").strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):  # asked for identity, but such servers exist
            self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # both forms, told apart by their first bytes
        elif encoding != "identity":
            raise HTTPException(f"content-encoding {encoding[:20]!r} was not asked for")

    def read_some(self) -> bytes:
        """Return the next piece of the body as soon as there is one; b"" at its end.

        Raises:
            TimeoutError, OSError, HTTPException: it was cut. AnswerTooLarge: it grew past MAX_ANSWER.
        """
        while not self._told:
            piece = self._answer.take()
            if not piece:
                if not self._answer.ended:
                    self._receive()
                    continue
                self._told = True
                if self._inflate and not self._inflate.eof:
                    raise IncompleteRead(b"")
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
        """True if `read_some` would return at once: what is pending can wait for it and leave together. An error is not
        at hand: what is pending leaves before it is told.
        """
        if self._told:
            return False
        if not self._answer.has_more():
            self._wire.patient = False
            try:
                self._receive()
            except (OSError, HTTPException):
                return False  # read_some will say what it is
            finally:
                self._wire.patient = True
        return self._answer.has_more()

    def limit(self, deadline: float) -> None:
        """From now on wait no longer than this (monotonic), and look after nobody else."""
        self._wire.deadline = deadline
        self._wire.watch = None

    def finish(self) -> None:
        """Done: keep the connection if its answer was read to the end, else close it."""
        if self._answer.reusable():
            self._pool.keep(self._wire)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection, so that the server stops working for nobody."""
        self._answer.let_go()
        self._wire.close()

    def _receive(self) -> None:
        """Take in what comes next, waiting for it if the wire is patient."""
        if self._answer.fault is not None:
            raise self._answer.fault
        data = self._wire.receive()
        if data is not None:
            self._answer.feed(data)

    def _decompress(self, piece: bytes) -> bytes:
        assert self._inflate is not None
        try:
            return self._inflate.decompress(piece, MAX_ANSWER - self._total + 1)
        except zlib.error as exc:
            raise HTTPException(f"content-encoding is wrong: {exc}") from None


class _Answer:
    """An answer as far as it has come. The methods on_... are called by httptools while it is fed."""

    def __init__(self) -> None:
        # Let go at the end: each of the two holds the other, which would leave both to the collector of cycles.
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # As lenient as http.client and browsers are. What strictness guards against, a request hidden in another one's
        # body, needs a connection with several users; here it has one user and one server.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.status = 0
        self.headers: dict[str, str] = {}  # by lower-case names
        self.length: int | None = None  # as announced
        self.has_head = False
        self.ended = False
        self.fault: HTTPException | None = None  # told once what came before it was taken
        self._head_bytes = self._fields = 0
        self._pieces: list[bytes] = []
        self._ends_with_connection = False
        self._keep_alive = False

    def feed(self, data: bytes) -> None:
        """Take in bytes; b"" is the end of the connection.

        Raises:
            HTTPException: it is no HTTP, or it was cut. ConnectionError: it was closed before anything came.
        """
        if self._parser is None:
            self._keep_alive = False  # nobody asked for what comes now
            return
        if not data:
            self._closed()
            return
        if not self.has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._broken(error)
        if self._fields > MOST_FIELDS or (self._head_bytes > MAX_HEAD and not self.has_head):
            raise HTTPException(f"a head of more than {MOST_FIELDS} fields or {MAX_HEAD} bytes")
        if self.ended:
            self._parser = None

    def has_more(self) -> bool:
        """Something can be taken, or its end is there."""
        return bool(self._pieces) or self.ended

    def take(self) -> bytes:
        """Return what has come of the body since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def reusable(self) -> bool:
        """The next request can be sent on the same connection."""
        return self.ended and self._keep_alive

    def let_go(self) -> None:
        """Nothing more is wanted."""
        self._parser = None

    def _closed(self) -> None:
        if not self.has_head:
            raise RemoteDisconnected("closed without an answer")
        if not self._ends_with_connection:
            raise IncompleteRead(b"")
        self.ended = True
        self._parser = None

    def _broken(self, error: Exception) -> None:
        """What came is not HTTP from some byte on."""
        if self.ended:
            self._keep_alive = False
            return
        self.fault = HTTPException(f"it is not HTTP: {error}")
        if not self._pieces:
            raise self.fault

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is the trailer's, or of an answer that nobody asked for
            self._fields += 1
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self.has_head or status < 200:
            return
        self.status, self.has_head = status, True
        length, coding = self.headers.get("content-length", ""), self.headers.get("transfer-encoding", "")
        if coding:
            self._ends_with_connection = not coding.lower().endswith("chunked")
        elif length:
            self.length = int(length)
        else:
            self._ends_with_connection = True

    def on_body(self, body: bytes) -> None:
        if not self.ended:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if not self.has_head:  # 100 Continue, 103 Early Hints: the answer is still to come
            self.headers.clear()
        elif self.ended:
            self._keep_alive = False
        else:
            self.ended, self._keep_alive = True, self._parser.should_keep_alive()


def _request(host: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return head and body as they leave, together."""
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if "Host" not in headers:
        lines.append(f"Host: {host}")
    lines.append(f"Content-Length: {len(body)}")
    if " " in target or any(map(UNSENDABLE.search, lines)):
        raise ValueError("the request's target or one of its headers holds what cannot be sent")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
