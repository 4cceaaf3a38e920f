"""Parses one HTTP/1.1 response: bytes in; status, headers and pieces of the body out. No socket here.

httptools (llhttp, the parser of Node.js) does the work; docs/decisions/0002-http.md says why. Bytes that are not HTTP
raise the exceptions of http.client, which callers know.
"""

from __future__ import annotations

from http.client import HTTPException, IncompleteRead, RemoteDisconnected

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD, MAX_FIELDS = 65536, 100  # bytes and header fields of a response; http.client has the same limits


class ResponseParser:
    """One response, as far as it has arrived. httptools calls the methods `on_...` while it is fed.

    Attributes:
        status: HTTP status; 0 before the head is complete.
        headers: by lower-case name; of a repeated header the last.
        length: the announced Content-Length in bytes, or None.
        has_head: status and headers are complete.
        ended: the body is complete.
        fault: what is wrong with the bytes behind `take()`; raised once those are taken.
    """

    def __init__(self) -> None:
        # Parser and callbacks hold each other. `release` breaks that reference cycle, so that the memory does not wait
        # for the garbage collector.
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # As lenient as http.client and browsers. Strictness guards against a request hidden in the body of another one,
        # which needs a connection with several users; here it has one user and one server.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.status = 0
        self.headers: dict[str, str] = {}
        self.length: int | None = None
        self.has_head = False
        self.ended = False
        self.fault: HTTPException | None = None
        self._head_bytes = self._fields = 0
        self._pieces: list[bytes] = []
        self._ends_with_connection = False
        self._keep_alive = False

    def feed(self, data: bytes) -> None:
        """Take in bytes; b"" is the end of the connection.

        Raises:
            HTTPException: the bytes are not HTTP, or the response was cut.
            ConnectionError: the connection was closed before a response.
        """
        if self._parser is None:
            self._keep_alive = False  # bytes behind the response, which nobody asked for
            return
        if not data:
            self._connection_closed()
            return
        if not self.has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._not_http(error)
        if self._fields > MAX_FIELDS or (self._head_bytes > MAX_HEAD and not self.has_head):
            raise HTTPException(f"the head of its answer has more than {MAX_FIELDS} fields or {MAX_HEAD} bytes")
        if self.ended:
            self._parser = None

    def has_more(self) -> bool:
        """Whether a piece of the body, or its end, has arrived and was not taken yet."""
        return bool(self._pieces) or self.ended

    def take(self) -> bytes:
        """Return the bytes of the body that arrived since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def is_reusable(self) -> bool:
        """Whether the next request can be sent on the same connection."""
        return self.ended and self._keep_alive

    def release(self) -> None:
        """Give up the parser: the rest of the response is not wanted."""
        self._parser = None

    def _connection_closed(self) -> None:
        if not self.has_head:
            raise RemoteDisconnected("closed without an answer")
        if not self._ends_with_connection:
            raise IncompleteRead(b"")
        self.ended = True
        self._parser = None

    def _not_http(self, error: Exception) -> None:
        """From some byte on, the data is not HTTP. The part of the body before that byte is good."""
        if self.ended:
            self._keep_alive = False
            return
        self.fault = HTTPException(f"its answer is not HTTP ({error})")
        if not self._pieces:
            raise self.fault

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it belongs to a trailer, or to a response that nobody asked for
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
        if not self.has_head:  # 100 Continue, 103 Early Hints: the response is still to come
            self.headers.clear()
        elif self.ended:
            self._keep_alive = False
        else:
            self.ended, self._keep_alive = True, self._parser.should_keep_alive()
