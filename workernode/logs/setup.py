"""The log: one JSON object a line on stderr, secrets taken out, floods folded.

Rooms log with the standard library, an event's name and fields in `extra`:

    log.warning("no connection to Pulsar: %s", why, extra={"event": "broker_down", "why": why})

A line has time, level, event, message, model and worker (where there is one), then the fields. No field may have the
name of an attribute of LogRecord (`name`, `args`, `module`, ...): the library refuses it. Nobody passes a task's text.
Writing raises nothing, and a log that nobody reads costs lines, never the node (`Pipe`).
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from workernode.record import rfc3339
from workernode.redaction import Redactor
from workernode.settings import Settings

OURS = ("workernode", "supervisor", "devstack")  # other libraries' INFO and DEBUG are not for our readers

# A flood: so many lines of one kind pass in a window, the rest of it is only counted. Ten show what it is about, and
# even a node that fails a thousand times a second then writes a line a second.
FOLD_FIRST = 10
FOLD_WINDOW = 10.0  # seconds
FOLD_KINDS = 1000  # kinds remembered at once; what more there is passes

# Most log lines then fit into PIPE_BUF, what a pipe takes in one piece: lines of several processes do not mix.
MAX_MESSAGE = 1500  # characters
MAX_TRACEBACK = 3000  # characters; the end of it, which says what happened
MAX_FIELD = 500  # characters
MAX_LINE = 16384  # bytes

# How long one line waits for a reader that is slow; the next ones do not wait at all until one got through.
PATIENCE = 0.2  # seconds


def setup(settings: Settings, *, worker: int | None = None) -> None:
    """Send this process's log to stderr as the settings want it. Each process does so once, as early as it can."""
    as_json = settings.log_format == "json" or (settings.log_format is None and not os.isatty(2))
    configure(as_json, settings.debug, settings.secrets, model=settings.model_name, worker=worker)


def configure(
    as_json: bool = True, debug: bool = False, secrets: Iterable[str] = (), *, fd: int = 2, **static: object
) -> LineHandler:
    """As `setup`, for a process that has no settings (yet).

    Args:
        static: fields that every line has; a field that is None is left out.
    """
    kept = {name: value for name, value in static.items() if value is not None}
    redactor = Redactor(secrets, as_json=as_json)
    formatter = JsonLines(redactor, kept) if as_json else TextLines(redactor)
    if fd == 2 and sys.stderr is None:  # closed when we started: since then number 2 may be anybody's
        fd = os.open(os.devnull, os.O_WRONLY)
    handler = LineHandler(Pipe(fd), formatter, redactor)
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, LineHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    # What nothing here shows need not be looked up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the caller's place (Python's logging HOWTO, "Optimization")
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    return handler


def hide(*secrets: str) -> None:
    """From now on keep these out of the log as well: a key made while running."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.redactor.add(secrets)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("workernode").critical(
        "unexpected %s", kind.__name__, exc_info=(kind, error, trace), extra={"event": "uncaught"}
    )


def _log_uncaught_in_thread(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and not issubclass(about.exc_type, SystemExit):
        _log_uncaught(about.exc_type, about.exc_value, about.exc_traceback)


# --- A line's text --------------------------------------------------------------------------------------------------


# What a record carries besides the caller's fields; taskName is new in Python 3.12.
_RESERVED = (*RESERVED_ATTRS, "taskName")
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)


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
        text = self._redact(text)  # first, since half a key would not be known again
        if name == "traceback":
            return text[-MAX_TRACEBACK:]
        most = MAX_MESSAGE if name == "message" else MAX_FIELD
        return text if len(text) <= most else f"{text[:most]}..."

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return it as JSON; what JSON cannot say (a NaN, say) as text."""
        try:
            return _JSON.encode(log_data)
        except (TypeError, ValueError):
            return _JSON.encode({str(name): str(value) for name, value in log_data.items()})


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
        told = "".join(f"  {name}={value}" for name, value in fields.items() if value is not None)
        lines = [f"{moment}.{int(record.msecs):03} {record.levelname:<7} {record.getMessage()}{told}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return self._redact("\n".join(map(_printable, lines)))


def _printable(line: str) -> str:
    """The line without line ends and without control sequences for the terminal."""
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


# --- Floods ---------------------------------------------------------------------------------------------------------


class Sort(NamedTuple):
    """What makes two lines alike."""

    level: int
    logger: str
    event: str
    text: str


def sort_of(record: logging.LogRecord) -> Sort | None:
    """Return what sort of line it is; None: every one of its sort is wanted.

    Warnings are alike by their event alone. Errors only where their whole text is the same. INFO by its text before the
    values are put in; but lines about a task (they have a request_id, and are one a task) are all wanted. So is DEBUG.
    """
    level = record.levelno
    if level < logging.INFO or (level < logging.WARNING and "request_id" in record.__dict__):
        return None
    event = record.__dict__.get("event")
    if level >= logging.ERROR:
        text = record.getMessage()
    else:
        text = "" if event and level >= logging.WARNING else str(record.msg)
    return Sort(level, record.name, str(event), text[:MAX_FIELD])


class Fold:
    """Counts lines of one sort: the first few in a window pass, the others are folded into a number. Pure."""

    def __init__(self, first: int, window: float) -> None:
        self._first = first  # lines
        self._window = window  # seconds
        self._seen: dict[Sort, tuple[float, int]] = {}  # when the window ends, lines since it began
        self._next_end = float("inf")

    def admits(self, sort: Sort, now: float) -> bool:
        """Count one line. True: it is to be written.

        Args:
            now: seconds on a clock that never jumps, as everywhere here.
        """
        end, lines = self._seen.get(sort, (now + self._window, 0))
        if lines == 0 and len(self._seen) >= FOLD_KINDS:
            return True
        self._seen[sort] = (end, lines + 1)
        self._next_end = min(self._next_end, end)
        return lines < self._first

    def close(self, now: float) -> list[tuple[Sort, int]]:
        """Forget the windows that are over, and return how many lines were folded in each, if any were."""
        if now < self._next_end:
            return []
        over = [(sort, lines) for sort, (end, lines) in self._seen.items() if now >= end]
        for sort, _ in over:
            del self._seen[sort]
        self._next_end = min((end for end, _ in self._seen.values()), default=float("inf"))
        return [(sort, lines - self._first) for sort, lines in over if lines > self._first]

    def folds(self) -> bool:
        """Whether some lines are still to be told of."""
        return any(lines > self._first for _, lines in self._seen.values())


# --- The way out ----------------------------------------------------------------------------------------------------


class Pipe:
    """A file descriptor that takes whole lines. It raises nothing, and waits for a slow reader only a moment.

    A pipe or terminal is opened once more for ourselves, so that it need not block: making stderr itself non-blocking
    would do so for all that share it, the user's shell included. Where that is not allowed, we ask before writing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = self._given = fd
        self._socket: socket.socket | None = None
        self._asks = False  # whether a write might block
        self._lost = 0  # lines since the last one that got through
        self._torn = False  # the last one got through in part
        with suppress(OSError):
            self._open(fd)

    def _open(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):  # journald's
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or os.isatty(fd):
            self._asks = True
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            self._asks = False

    def write(self, line: bytes) -> None:
        """Write one line, with its line end; or count it as lost, and say so before the next that gets through."""
        if self._lost:
            line = (b"\n" if self._torn else b"") + self._lost_line() + line
        rest = memoryview(line)
        until = time.monotonic() + (0.0 if self._lost else PATIENCE)
        begun = False
        try:
            while rest:
                written = self._send(rest, until)
                begun, rest = True, rest[written:]
        except OSError:  # nobody reads (EPIPE), does not read (EAGAIN), no room (ENOSPC)
            self._lost += 1
            self._torn = self._torn or begun
        else:
            self._lost, self._torn = 0, False

    def _send(self, rest: memoryview, until: float) -> int:
        if self._asks:
            rest = rest[: select.PIPE_BUF]  # as much as a pipe that says it is ready takes without waiting
            self._wait(until)
        try:
            return self._send_now(rest)
        except BlockingIOError:
            self._wait(until)
            return self._send_now(rest)

    def _send_now(self, rest: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(rest, socket.MSG_DONTWAIT)
        return os.write(self._fd, rest)

    def _wait(self, until: float) -> None:
        poll = select.poll()
        poll.register(self._socket or self._fd, select.POLLOUT)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise BlockingIOError

    def close(self) -> None:
        """Close what was opened here; the descriptor that was given stays open."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd != self._given:
            os.close(self._fd)

    def _lost_line(self) -> bytes:
        line = {"time": rfc3339(time.time()), "level": "WARNING", "event": "log_lost", "lost": self._lost}
        line["message"] = f"{self._lost} log lines could not be written"
        return _JSON.encode(line).encode() + b"\n"


class LineHandler(logging.Handler):
    """Formats, folds and writes. Owned by the root logger; safe to call from every thread."""

    def __init__(
        self, pipe: Pipe, formatter: logging.Formatter, redactor: Redactor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.redactor = redactor
        self.setFormatter(formatter)
        self._pipe = pipe
        self._clock = clock
        self._fold = Fold(FOLD_FIRST, FOLD_WINDOW)
        self._timer: threading.Timer | None = None  # runs while lines are folded

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it belongs to a flood."""
        try:
            sort = sort_of(record)
            if sort is not None:
                now = self._clock()
                self._tell_folded(now)
                if not self._fold.admits(sort, now):
                    self._tell_later()
                    return
            line = self.format(record)
        except Exception as error:  # a wrong format, a field whose str() fails: no reason to fail what is logged
            text = f"a log line failed: {type(error).__name__}"
            line = self.format(self._made(logging.ERROR, record.name, "log_failed", text))
        self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", "replace")
        if len(data) > MAX_LINE:
            short = f"a log line of {len(data)} bytes was left out"
            data = self.format(self._made(logging.ERROR, __name__, "log_failed", short)).encode("utf-8", "replace")
        self._pipe.write(data + b"\n")

    def _made(self, level: int, logger: str, event: str, text: str, **fields: object) -> logging.LogRecord:
        record = logging.LogRecord(logger, level, "", 0, text, None, None)
        record.__dict__.update(fields, event=event)
        return record

    def _tell_folded(self, now: float) -> None:
        for sort, lines in self._fold.close(now):
            text = f"and {lines} more like it in {FOLD_WINDOW:g} s"
            self._write(self.format(self._made(sort.level, sort.logger, sort.event, text, folded=lines)))

    def _tell_later(self) -> None:
        """See to it that the flood's number is told even if nothing else is logged."""
        if self._timer is None:
            timer = threading.Timer(FOLD_WINDOW, self._time_to_tell)
            timer.daemon = True
            with suppress(RuntimeError):  # no more threads: then the next line tells
                timer.start()
                self._timer = timer

    def _time_to_tell(self) -> None:
        self.acquire()
        try:
            self._timer = None
            self._tell_folded(self._clock())
            if self._fold.folds():
                self._tell_later()
        finally:
            self.release()

    def flush(self) -> None:
        """Tell at once what is still folded: the process ends."""
        self.acquire()
        try:
            self._tell_folded(float("inf"))
        finally:
            self.release()

    def close(self) -> None:
        """Leave the file descriptor as it was found."""
        if self._timer is not None:
            self._timer.cancel()
        self._pipe.close()
        super().close()
