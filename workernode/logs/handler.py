"""The handler of the root logger: formats each record, folds repeated lines, and writes the line."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from workernode.logs.output import Output
from workernode.logs.repeats import FIRST_LINES, WINDOW_S, Fold, group_of

MAX_LINE = 16384  # bytes


class LineHandler(logging.Handler):
    """Formats, folds and writes. Owned by the root logger; safe to call from every thread."""

    def __init__(
        self,
        output: Output,
        formatter: logging.Formatter,
        clock: Callable[[], float] = time.monotonic,
        window_s: float = WINDOW_S,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._output = output
        self._clock = clock
        self._window_s = window_s
        self._fold = Fold(FIRST_LINES, window_s)
        self._timer: threading.Timer | None = None  # runs while lines are folded

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it repeats others too often."""
        try:
            group = group_of(record)
            if group is not None:
                now = self._clock()
                self._report_folded(now)
                request_id = str(record.__dict__["request_id"]) if group.of_task else ""
                if not self._fold.admit(group, now, request_id):
                    self._report_folded(now)
                    self._report_later()
                    return
            line = self.format(record)
        except Exception as error:  # a wrong format, or a field whose str() fails, must not fail the caller
            text = f"a log line could not be formatted: {type(error).__name__}"
            line = self.format(self._own_record(logging.ERROR, record.name, "log_failed", text))
        self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", "replace")
        if len(data) > MAX_LINE:
            short = f"a log line of {len(data)} bytes was left out: a line has {MAX_LINE} bytes at most"
            data = self.format(self._own_record(logging.ERROR, __name__, "log_failed", short)).encode(
                "utf-8", "replace"
            )
        self._output.write(data + b"\n")

    def _own_record(self, level: int, logger: str, event: str, text: str, **fields: object) -> logging.LogRecord:
        record = logging.LogRecord(logger, level, "", 0, text, None, None)
        record.__dict__.update(fields, event=event)
        return record

    def _report_folded(self, now: float) -> None:
        for group, lines, request_ids in self._fold.close(now):
            text = f"and {lines} more like it in {self._window_s:g} s"
            about: dict[str, object] = {"folded": lines}
            if request_ids:
                text = f"{text}: {group.text}" if group.text else text
                about["request_ids"] = request_ids
            self._write(self.format(self._own_record(group.level, group.logger, group.event, text, **about)))

    def _report_later(self) -> None:
        """Make sure that the number of folded lines is written even if nothing else is logged."""
        if self._timer is None:
            timer = threading.Timer(self._window_s, self._timer_fired)
            timer.daemon = True
            with suppress(RuntimeError):  # no more threads: then the next line reports the number
                timer.start()
                self._timer = timer

    def _timer_fired(self) -> None:
        self.acquire()
        try:
            self._timer = None
            self._report_folded(self._clock())
            if self._fold.has_folded():
                self._report_later()
        finally:
            self.release()

    def flush(self) -> None:
        """Report at once what is still folded: the process ends."""
        self.acquire()
        try:
            self._report_folded(float("inf"))
        finally:
            self.release()

    def close(self) -> None:
        """Stop the timer; the file descriptor that was given stays open."""
        if self._timer is not None:
            self._timer.cancel()
        self._output.close()
        super().close()
