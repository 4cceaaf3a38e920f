"""The recent past, for the page: figures of the last 15 minutes, the last reports, the last faults in the log.

Bounded. Each is kept as a tuple that is replaced as a whole: one thread writes, any thread may read without waiting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from supervisor.observability.snapshot import Notice, Snapshot

SPAN = 900.0  # seconds that are kept
STEP = 2.0  # seconds between two points: as often as the page asks
MIN_STEP = 0.9 * STEP  # snapshots come about once a second, never exactly
MAX_POINTS = round(SPAN / MIN_STEP)
# Points over which tokens per second are averaged: an answer that comes whole would show as a spike otherwise.
RATE_POINTS = 5
MAX_NOTICES = 20  # different reports, or faults, that are kept
MAX_TEXT = 600  # characters of one


class Point(NamedTuple):
    """The figures of one moment."""

    at: float  # monotonic
    cap: int
    in_flight: int
    cpu_percent: float
    memory_percent: float
    tokens: float  # since the start


class History:
    """The figures of the last 15 minutes, one point every STEP seconds. Written by one thread."""

    def __init__(self) -> None:
        self._points: tuple[Point, ...] = ()

    def add(self, now: Snapshot) -> None:
        """Keep the snapshot's figures, if the next point is due."""
        points = self._points
        if points and now.at - points[-1].at < MIN_STEP:
            return
        point = Point(now.at, now.cap, now.in_flight, now.cpu_percent, now.memory_percent, now.tokens)
        first = max(0, len(points) + 1 - MAX_POINTS)
        while first < len(points) and now.at - points[first].at > SPAN:
            first += 1
        self._points = (*points[first:], point)

    def columns(self, now: float) -> dict[str, list[float]]:
        """Return what the page draws, oldest first: for each figure its values, and how many seconds ago they were."""
        points = self._points
        return {
            "ago_s": [round(now - point.at, 1) for point in points],
            "cap": [point.cap for point in points],
            "in_flight": [point.in_flight for point in points],
            "cpu_percent": [round(point.cpu_percent, 1) for point in points],
            "memory_percent": [round(point.memory_percent, 1) for point in points],
            "tokens_per_s": _rates(points),
        }


def _rates(points: tuple[Point, ...]) -> list[float]:
    """Tokens per second up to each point."""
    rates = []
    for index, point in enumerate(points):
        before = points[max(0, index - RATE_POINTS)]
        elapsed = point.at - before.at
        rates.append(round(max(0.0, point.tokens - before.tokens) / elapsed, 1) if elapsed > 0 else 0.0)
    return rates


class RecentNotices:
    """The last notices. One that comes again is counted, and shown with its newest text."""

    def __init__(self) -> None:
        self._notices: dict[tuple[str, str], Notice] = {}  # the newest at the end
        self.newest_first: tuple[Notice, ...] = ()

    def add(self, at: float, what: str, text: str, same_as: str = "") -> None:
        """Keep one notice.

        Args:
            at: monotonic, seconds.
            what: a report's reason, or a log line's event.
            text: what is shown; cut after MAX_TEXT characters.
            same_as: two notices of one `what` are the same if this is equal; "": if the text is equal.
        """
        key = (what, same_as or text)
        before = self._notices.pop(key, None)
        shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
        self._notices[key] = Notice(at, what, shown, before.times + 1 if before else 1)
        if len(self._notices) > MAX_NOTICES:
            del self._notices[next(iter(self._notices))]
        self.newest_first = tuple(reversed(self._notices.values()))


class RecentFaults(logging.Handler):
    """Keeps the last lines of the log at WARNING or above.

    Args:
        redact: takes secrets out of a text.
        clock: monotonic seconds.
    """

    def __init__(self, redact: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._redact, self._clock = redact, clock
        self._notices = RecentNotices()

    @property
    def newest_first(self) -> tuple[Notice, ...]:
        """The faults, newest first."""
        return self._notices.newest_first

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line (logging's name)."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the format does not fit its arguments: the log itself reports that
            return
        event, why = str(record.__dict__.get("event") or record.name), record.__dict__.get("why")
        text = f"{message}: {why}" if isinstance(why, str) and why and why not in message else message
        self._notices.add(self._clock(), event, self._redact(text), same_as=message)
