"""What the benchmark says while it runs, on stderr."""

from __future__ import annotations

import sys
import time

EVERY_S = 0.2  # between two changes of a line on a terminal


class Progress:
    """A line a measurement; on a terminal it counts while it is measured."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._head = ""
        self._in_place = sys.stderr.isatty()
        self._began = time.monotonic()
        self._shown_at = 0.0

    def begin(self, what: str) -> None:
        """The next measurement begins."""
        self._number += 1
        passed = time.monotonic() - self._began
        self._head = f"{passed:6.0f} s  {self._number:3}/{self._total}  {what}"
        if self._in_place:
            self._show("")

    def tick(self, answers: int) -> None:
        """So many answers came by now."""
        now = time.monotonic()
        if self._in_place and now - self._shown_at > EVERY_S:
            self._shown_at = now
            self._show(f"  {answers} answers")

    def end(self, result: str) -> None:
        """It is over."""
        self._show(f"  {result}")
        sys.stderr.write("\n")

    def _show(self, tail: str) -> None:
        start, end = ("\r", "\x1b[K") if self._in_place else ("", "")
        sys.stderr.write(f"{start}{self._head}{tail}{end}")
        sys.stderr.flush()
