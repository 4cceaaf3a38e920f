"""What devstack says to a person: faults in plain sentences, and how far a long step has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# Seconds between two lines of progress where lines cannot be rewritten (a log, CI): often enough to see that it moves.
LINE_INTERVAL_S = 5.0


class StackError(Exception):
    """What happened and what to do about it, a sentence a line. Shown as it is, never with a traceback."""


class Progress:
    """Megabytes so far of about so many: in place on a terminal, else a line every few seconds."""

    def __init__(
        self, what: str, total_mb: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._total_mb = total_mb
        self._stream = stream or sys.stderr
        self._clock = clock
        self._in_place = self._stream.isatty()
        self._next_line = clock()
        self._shown = False

    def show(self, done_bytes: int) -> None:
        """Say how many bytes there are by now; may be called as often as one likes."""
        text = f"{self._what}: {done_bytes // 1_000_000} of about {self._total_mb} MB"
        if self._in_place:
            self._stream.write(f"\r{text}\x1b[K")
            self._shown = True
        elif self._clock() >= self._next_line:
            self._stream.write(f"{text}\n")
            self._next_line = self._clock() + LINE_INTERVAL_S
        self._stream.flush()

    def end(self) -> None:
        """Leave the line, so that what is said next starts on one of its own."""
        if self._shown:
            self._stream.write("\n")
            self._shown = False
