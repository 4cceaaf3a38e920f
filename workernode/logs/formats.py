"""A log record → its line: strict JSON for machines, or text for a person at a terminal."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from workernode.record import rfc3339
from workernode.redaction import Redactor

# Most log lines then fit into PIPE_BUF, what a pipe takes in one piece: lines of several processes do not mix.
MAX_MESSAGE = 1500  # characters
MAX_TRACEBACK = 3000  # characters; the end of it, which says what happened
MAX_FIELD = 500  # characters

# What a record carries besides the caller's fields; taskName is new in Python 3.12.
_RESERVED = (*RESERVED_ATTRS, "taskName")
JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)


class JsonLines(JsonFormatter):
    """A log record as one line of strict JSON."""

    def __init__(self, redactor: Redactor, static: dict[str, Any]) -> None:
        super().__init__(
            ["levelname", "event", "message"],
            rename_fields={"levelname": "level", "exc_info": "traceback"},
            static_fields=static,
            reserved_attrs=_RESERVED,
        )
        self._redact = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return self._redact(super().format(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Put the members of the line into `log_data`, in order."""
        log_data["time"] = rfc3339(record.created)
        super().add_fields(log_data, record, message_dict)
        log_data["event"] = log_data["event"] or record.name  # another library's line
        for name, value in log_data.items():
            if isinstance(value, str) and len(value) > MAX_FIELD:
                log_data[name] = self._cut(name, value)

    def _cut(self, name: str, text: str) -> str:
        text = self._redact(text)  # before the cut, since half a key would not be recognized
        if name == "traceback":
            return text[-MAX_TRACEBACK:]
        longest = MAX_MESSAGE if name == "message" else MAX_FIELD
        return text if len(text) <= longest else f"{text[:longest]}..."

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the line as JSON. If JSON cannot express a value (a NaN, say), all values become texts."""
        try:
            return JSON.encode(log_data)
        except (TypeError, ValueError):
            return JSON.encode({str(name): str(value) for name, value in log_data.items()})


class TextLines(logging.Formatter):
    """A log record as a line for a person at a terminal: local time, level, message, fields."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redact = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows in lines of its own."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields: dict[Any, Any] = {}
        merge_record_extra(record, fields, reserved=(*_RESERVED, "event"))
        pairs = "".join(f"  {name}={value}" for name, value in fields.items() if value is not None)
        lines = [f"{moment}.{int(record.msecs):03} {record.levelname:<7} {record.getMessage()}{pairs}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return self._redact("\n".join(map(_printable, lines)))


def _printable(line: str) -> str:
    """Return the line without line ends and without control sequences for the terminal."""
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
