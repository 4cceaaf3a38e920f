"""What the development tools print for a person: errors in plain sentences, and the progress of a long step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# Seconds between two lines of progress where lines cannot be rewritten (a log, CI): often enough to see that it moves.
LINE_INTERVAL_S = 5.0


class StackError(Exception):
    """What happened and what to do about it, a sentence a line. Shown as it is, without a traceback."""


class StatusLine:
    """A line on stderr that is rewritten in place. On a stream that is no terminal, `show` prints nothing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.in_place = self._stream.isatty()
        self._open = False  # the cursor stands on the line

    def show(self, text: str) -> None:
        """Show the text instead of the line's last one."""
        if self.in_place:
            self._stream.write(f"\r{text}\x1b[K")
            self._stream.flush()
            self._open = True

    def print(self, text: str) -> None:
        """Print the text as a line that stays, on any stream."""
        self.show(text)
        self._stream.write("\n" if self._open else f"{text}\n")
        self._stream.flush()
        self._open = False

    def end(self) -> None:
        """Keep the last text, and go to the next line."""
        if self._open:
            self._stream.write("\n")
            self._open = False


class DownloadProgress:
    """The megabytes of a download: rewritten in place on a terminal, else a line every few seconds.

    Args:
        name: what is downloaded.
        total_mb: its size, roughly.
    """

    def __init__(
        self, name: str, total_mb: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._total_mb = total_mb
        self._line = StatusLine(stream)
        self._clock = clock
        self._next_line = clock()

    def show(self, done_bytes: int) -> None:
        """Show how many bytes there are by now; may be called often."""
        text = f"{self._name}: {done_bytes // 1_000_000} of about {self._total_mb} MB"
        if not done_bytes:  # Maven fetches its own plugins first, which takes it some ten seconds
            text = f"{self._name}: about {self._total_mb} MB, the download begins"
        if self._line.in_place:
            self._line.show(text)
        elif self._clock() >= self._next_line:
            self._line.print(text)
            self._next_line = self._clock() + LINE_INTERVAL_S

    def end(self) -> None:
        """Go to the next line, where other output may follow."""
        self._line.end()
