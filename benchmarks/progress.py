"""The progress of the benchmark, on stderr."""

from __future__ import annotations

import time

from devstack.terminal import StatusLine

INTERVAL_S = 0.2  # between two changes of the line on a terminal


class MeasurementProgress:
    """Prints a line for each measurement. On a terminal the line also counts the answers while it is measured."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._head = ""
        self._line = StatusLine()
        self._began = time.monotonic()
        self._shown_at = 0.0

    def begin(self, name: str) -> None:
        """Begin the line of the next measurement."""
        self._number += 1
        passed = time.monotonic() - self._began
        self._head = f"{passed:6.0f} s  {self._number:3}/{self._total}  {name}"
        self._line.show(self._head)

    def tick(self, answers: int) -> None:
        """Show how many answers have come; may be called often."""
        now = time.monotonic()
        if now - self._shown_at > INTERVAL_S:
            self._shown_at = now
            self._line.show(f"{self._head}  {answers} answers")

    def end(self, result: str) -> None:
        """Print the line of the measurement with its result."""
        self._line.print(f"{self._head}  {result}")
