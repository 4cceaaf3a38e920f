"""Bytes of an event stream in, the data of its events out. Pure: no socket in sight.

Follows the WHATWG standard (html.spec.whatwg.org, 9.2 Server-sent events): lines end with LF, CR or CRLF; a line that
starts with a colon is a comment; several `data` lines of one event are joined by LF; one space after the colon belongs
to the syntax. `id` and `retry` are ignored.

Two forms that are not in the standard become events, because servers put their errors there: a line of a field `error`
(llama.cpp before its PR #16109) is an event named "error"; a line that starts with `{` is an event named "line".
"""

from __future__ import annotations

# One event may be as large as a whole answer may be (spec 7).
MAX_EVENT_BYTES = 64 * 1024 * 1024


class EventTooLong(ValueError):
    """An event grew past the limit: the stream is not one that can be relayed."""


class NamedEvent(bytes):
    """The data of an event that has a name other than "message"."""

    name: str = ""

    @classmethod
    def of(cls, name: str, data: bytes) -> NamedEvent:
        """Return the event with this name."""
        event = cls(data)
        event.name = name
        return event


class Decoder:
    """Turns pieces of an event stream, cut anywhere, into the data of whole events. One per stream."""

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._size = 0  # bytes held of the event that is not whole yet
        self._line: list[bytes] = []  # pieces of the line that is not whole yet
        self._data: list[bytes] = []  # the `data` lines of the event that is not whole yet
        self._data_size = 0  # their bytes, and a line end for each; not added up anew for each piece
        self._name = ""  # the name of that event
        self._after_cr = False  # the last piece ended in CR: an LF that follows belongs to it
        self._at_start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of every event that is whole with this piece, in order; `NamedEvent` where it has a name.

        Raises:
            EventTooLong: an unfinished event holds more than `limit` bytes.
        """
        if self._after_cr and piece:
            self._after_cr = False
            if piece.startswith(b"\n"):
                piece = piece[1:]
        if not piece:
            return []
        self._size += len(piece)
        if self._size > self._limit:
            raise EventTooLong(f"its stream has an event of more than {self._limit} bytes")
        if b"\n" not in piece and b"\r" not in piece:
            self._line.append(piece)  # joined once its end is there, so that single bytes do not cost the square
            return []
        self._line.append(piece)
        lines = b"".join(self._line).splitlines()
        self._line = [] if piece.endswith((b"\n", b"\r")) else [lines.pop()]
        self._after_cr = piece.endswith(b"\r")
        return self._take(lines)

    def close(self) -> list[bytes]:
        """Return what the end of the body completes: servers exist that leave out the last blank line."""
        line = b"".join(self._line)
        self._line = []
        return self._take([line, b""] if line else [b""])

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events = []
        if self._at_start and lines:
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        for line in lines:
            if not line:
                if self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    events.append(NamedEvent.of(self._name, data) if self._name else data)
                    self._data, self._data_size = [], 0
                self._name = ""
            elif line.startswith(b"data:") or line == b"data":
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._data_size += len(self._data[-1]) + 1
            elif line.startswith(b"event:"):
                name = line[6:].strip().decode("utf-8", "replace")
                self._name = "" if name == "message" else name
            elif line.startswith(b"error:"):
                events.append(NamedEvent.of("error", line[6:].strip()))
            elif line.startswith(b"{"):
                events.append(NamedEvent.of("line", line))
        self._size = self._data_size + sum(map(len, self._line))
        return events
