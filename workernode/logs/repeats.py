"""Folding of repeated log lines: which lines are alike, and how many of them are written. Pure."""

from __future__ import annotations

import logging
from typing import NamedTuple

# Of the lines of one group, the first ten in a window are written and the rest are counted. Ten show what happened, and
# even a node that fails a thousand times a second then writes about a line a second.
FIRST_LINES = 10
WINDOW_S = 10.0
MAX_GROUPS = 1000  # groups remembered at once; the lines of further groups are all written
MAX_TEXT = 500  # characters of a message that are compared


class Group(NamedTuple):
    """What lines that are alike have in common."""

    level: int
    logger: str
    event: str
    text: str


def group_of(record: logging.LogRecord) -> Group | None:
    """Return the group of a line. None: the line is always written.

    Warnings are alike if they have the same event. Errors are alike if their whole text is the same. INFO lines are
    alike if their text before the values are put in is the same. INFO lines about a task (they have a request_id, and
    there is one a task) and DEBUG lines are always written.
    """
    level = record.levelno
    if level < logging.INFO or (level < logging.WARNING and "request_id" in record.__dict__):
        return None
    event = record.__dict__.get("event")
    if level >= logging.ERROR:
        text = record.getMessage()
    else:
        text = "" if event and level >= logging.WARNING else str(record.msg)
    return Group(level, record.name, str(event), text[:MAX_TEXT])


class Fold:
    """Counts the lines of each group. The first few in a window are written, the others are folded into a number."""

    def __init__(self, first_lines: int, window_s: float) -> None:
        self._first_lines = first_lines
        self._window_s = window_s
        self._seen: dict[Group, tuple[float, int]] = {}  # when the window ends, lines since it began
        self._next_end = float("inf")

    def admit(self, group: Group, now: float) -> bool:
        """Count one line, and return whether it is to be written.

        Args:
            now: seconds on a clock that never jumps, as everywhere here.
        """
        end, lines = self._seen.get(group, (now + self._window_s, 0))
        if lines == 0 and len(self._seen) >= MAX_GROUPS:
            return True
        self._seen[group] = (end, lines + 1)
        self._next_end = min(self._next_end, end)
        return lines < self._first_lines

    def close(self, now: float) -> list[tuple[Group, int]]:
        """Forget the windows that are over, and return how many lines each of them folded, if it folded any."""
        if now < self._next_end:
            return []
        over = [(group, lines) for group, (end, lines) in self._seen.items() if now >= end]
        for group, _ in over:
            del self._seen[group]
        self._next_end = min((end for end, _ in self._seen.values()), default=float("inf"))
        return [(group, lines - self._first_lines) for group, lines in over if lines > self._first_lines]

    def has_folded(self) -> bool:
        """Return whether a window that is still open folded any lines."""
        return any(lines > self._first_lines for _, lines in self._seen.values())
