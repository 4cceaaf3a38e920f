"""The recent past, for the page: a quarter of an hour of figures, and the last faults that the log told of. Bounded.

Each is kept as a tuple that is replaced as a whole: one thread writes, any may read, nobody waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from supervisor.observability.snapshot import Snapshot, Told

SPAN = 900.0  # seconds that are kept
STEP = 2.0  # seconds between two points: as often as the page looks
CLOSEST = 0.9 * STEP  # the owner comes every second or so
POINTS = round(SPAN / CLOSEST)
# Tokens per second are over so long: answers that come whole would else draw spikes.
RATE_STEPS = 5
MOST = 20  # kinds of fault, or of report, that are kept
LENGTH = 600  # characters of one


class Point(NamedTuple):
    """The figures of one moment."""

    at: float  # monotonic
    cap: int
    in_flight: int
    cpu_percent: float
    memory_percent: float
    tokens: float  # since the start


class History:
    """A quarter of an hour of points, one every STEP seconds. Written by the owner of the state."""

    def __init__(self) -> None:
        self._points: tuple[Point, ...] = ()

    def add(self, now: Snapshot) -> None:
        """Keep the snapshot's figures, if the next point is due."""
        points = self._points
        if points and now.at - points[-1].at < CLOSEST:
            return
        point = Point(now.at, now.cap, now.in_flight, now.cpu_percent, now.memory_percent, now.tokens)
        first = max(0, len(points) + 1 - POINTS)
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
        before = points[max(0, index - RATE_STEPS)]
        elapsed = point.at - before.at
        rates.append(round(max(0.0, point.tokens - before.tokens) / elapsed, 1) if elapsed > 0 else 0.0)
    return rates


class Last:
    """The last things that people were told. What is told again is counted, with its newest words."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Told] = {}  # the newest at the end
        self.told: tuple[Told, ...] = ()  # newest first

    def note(self, at: float, what: str, text: str, alike: str = "") -> None:
        """Note one.

        Args:
            at: monotonic, seconds.
            what: a report's reason, a log line's event.
            alike: what makes two of them the same; the text, if nothing is given.
        """
        key = (what, alike or text)
        before = self._last.pop(key, None)
        shown = text if len(text) <= LENGTH else f"{text[:LENGTH]}…"
        self._last[key] = Told(at, what, shown, before.times + 1 if before else 1)
        if len(self._last) > MOST:
            del self._last[next(iter(self._last))]
        self.told = tuple(reversed(self._last.values()))


class LastFaults(logging.Handler):
    """Keeps what the log last said at WARNING or above.

    Args:
        redact: takes secrets out of a text.
        clock: seconds, monotonic.
    """

    def __init__(self, redact: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._redact, self._clock = redact, clock
        self._last = Last()

    @property
    def told(self) -> tuple[Told, ...]:
        """What it said, newest first."""
        return self._last.told

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line (logging's name)."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a wrong format: the log itself says so
            return
        event, why = str(record.__dict__.get("event") or record.name), record.__dict__.get("why")
        text = f"{message}: {why}" if isinstance(why, str) and why and why not in message else message
        self._last.note(self._clock(), event, self._redact(text), alike=message)
