"""A log record → its line: strict JSON for machines, or text for a person at a terminal."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import msgspec

from workernode.record import rfc3339
from workernode.redaction import Redactor

# Most log lines then fit into PIPE_BUF, what a pipe takes in one piece: lines of several processes do not mix.
MAX_MESSAGE = 1500  # characters
MAX_TRACEBACK = 3000  # characters; the end of it, where the cause is
MAX_FIELD = 500  # characters

# What a record carries besides the caller's fields. Python 3.12 added taskName; a handler before ours may add message.
_RESERVED = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"taskName", "message", "asctime"}
JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
_ENCODER = msgspec.json.Encoder(enc_hook=str)  # eight times faster; it refuses half a surrogate pair and large integers


class JsonLines(logging.Formatter):
    """A log record as one line of strict JSON.

    Args:
        redactor: hides secrets.
        static: members that every line has.
    """

    def __init__(self, redactor: Redactor, static: dict[str, Any]) -> None:
        super().__init__()
        self._redact = redactor
        self._static = static

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        members = self._members(record)
        for name, value in members.items():
            if isinstance(value, str) and len(value) > MAX_FIELD:
                members[name] = self._cut(name, value)
        return self._redact(_json(members))

    def _members(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the members of the line in order. A record without an event is another library's."""
        fields = fields_of(record)
        event = fields.pop("event", None) or record.name
        members = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "event": event,
            "message": record.getMessage(),
            **self._static,
        }
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return members | fields

    def _cut(self, name: str, text: str) -> str:
        text = self._redact(text)  # before the cut, since half a key would not be recognized
        if name == "traceback":
            return text[-MAX_TRACEBACK:]
        longest = MAX_MESSAGE if name == "message" else MAX_FIELD
        return text if len(text) <= longest else f"{text[:longest]}..."


def _json(members: dict[str, Any]) -> str:
    """Return the members as JSON. If JSON cannot express a value (an object as a key, say), all values become texts."""
    try:
        return _ENCODER.encode(members).decode()
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return JSON.encode({str(name): str(value) for name, value in members.items()})


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that the caller gave the record."""
    return {name: value for name, value in record.__dict__.items() if name not in _RESERVED}


class TextLines(logging.Formatter):
    """A log record as a line for a person at a terminal: local time, level, message, fields."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redact = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows in lines of its own."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = fields_of(record)
        pairs = "".join(f"  {name}={fields[name]}" for name in fields if name != "event" and fields[name] is not None)
        lines = [f"{moment}.{int(record.msecs):03} {record.levelname:<7} {record.getMessage()}{pairs}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return self._redact("\n".join(map(_printable, lines)))


def _printable(line: str) -> str:
    """Return the line without line ends and without control sequences for the terminal."""
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
