"""One HTTP answer that is being read: status, headers, and the body piece by piece, within the limits of spec 7.

An answer that is larger than 64 MiB is refused, decompressed or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from http.client import HTTPException, IncompleteRead

from workernode.net.connection import Wire
from workernode.net.errors import AnswerTooLarge
from workernode.net.http_parser import ResponseParser

MAX_ANSWER = 64 * 1024 * 1024  # bytes, after decompression (spec 7)
UNREADABLE_ENCODINGS = ("br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "aes128gcm")


class Exchange:
    """One answer that is being read. One task owns it; `finish` or `abort` ends it.

    Attributes: status; headers (by lower-case name).

    Args:
        wire: the connection on which the request was sent. The constructor waits for the head of the answer.
        keep: called by `finish` with the connection, if another request may be sent on it.
    """

    def __init__(self, wire: Wire, keep: Callable[[Wire], None]) -> None:
        self._wire = wire
        self._keep = keep
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

    def wait_until(self, deadline: float) -> None:
        """From now on wait no longer than this (monotonic)."""
        self._wire.deadline = deadline

    def limit_silence(self, seconds: float) -> None:
        """From now on wait no longer than this for the next byte."""
        self._wire.silence = seconds

    def finish(self) -> None:
        """Keep the connection if the answer was read to its end, else close it."""
        if self._parser.is_reusable():
            self._keep(self._wire)
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
