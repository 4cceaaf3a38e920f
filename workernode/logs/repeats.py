"""Folding of repeated log lines: which lines are alike, and how many of them are written. Pure."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

# Of the lines of one group, the first ten in a window are written and the rest are counted. Ten show what happened, and
# even a node that fails a thousand times a second then writes about a line a second.
FIRST_LINES = 10
WINDOW_S = 10.0
MAX_GROUPS = 1000  # groups remembered at once; the lines of further groups are all written
IDS_PER_LINE = 50  # ids of tasks in one line, which then fits into PIPE_BUF
MAX_TEXT = 500  # characters of a message that are compared


class Group(NamedTuple):
    """What lines that are alike have in common."""

    level: int
    logger: str
    event: str
    text: str
    of_task: bool  # the lines are about tasks, whose ids are kept


class Folded(NamedTuple):
    """Lines of one group that were not written."""

    group: Group
    lines: int
    request_ids: tuple[str, ...]  # of the tasks that they are about


def group_of(record: logging.LogRecord) -> Group | None:
    """Return the group of a line. None: the line is always written.

    Warnings are alike if they have the same event, and about tasks the same status and code. Errors are alike if their
    whole text is the same. INFO lines are alike if their text before the values are put in is the same. INFO
    lines about a task (they have a request_id, and there is one a task) and DEBUG lines are always written.
    """
    level, of_task = record.levelno, "request_id" in record.__dict__
    if level < logging.INFO or (level < logging.WARNING and of_task):
        return None
    event = record.__dict__.get("event")
    if level >= logging.ERROR:
        text = record.getMessage()
    elif of_task:
        text = f"{record.__dict__.get('status', '')} {record.__dict__.get('code', '')}".strip()
    else:
        text = "" if event and level >= logging.WARNING else str(record.msg)
    return Group(level, record.name, str(event), text[:MAX_TEXT], of_task)


@dataclass(slots=True)
class _Window:
    """The lines of one group since the first of them."""

    end: float  # monotonic
    lines: int = 0
    pending: int = 0  # lines that were folded and not reported yet
    request_ids: list[str] = field(default_factory=list)  # of the pending lines


class Fold:
    """Counts the lines of each group. The first few in a window are written, the others are folded into a number."""

    def __init__(self, first_lines: int, window_s: float) -> None:
        self._first_lines = first_lines
        self._window_s = window_s
        self._windows: dict[Group, _Window] = {}
        self._next_end = float("inf")
        self._full: list[Folded] = []  # to be reported before their window ends, because they have enough ids

    def admit(self, group: Group, now: float, request_id: str = "") -> bool:
        """Count one line, and return whether it is to be written.

        Args:
            now: seconds on a clock that never jumps, as everywhere here.
            request_id: the task that the line is about; "" for none.
        """
        window = self._windows.get(group)
        if window is None:
            if len(self._windows) >= MAX_GROUPS:
                return True
            window = self._windows[group] = _Window(now + self._window_s)
            self._next_end = min(self._next_end, window.end)
        window.lines += 1
        if window.lines <= self._first_lines:
            return True
        window.pending += 1
        if request_id:
            window.request_ids.append(request_id)
            if len(window.request_ids) >= IDS_PER_LINE:
                self._full.append(_taken(group, window))
        return False

    def close(self, now: float) -> list[Folded]:
        """Return what was folded in windows that are over, and forget them; and what has many ids already."""
        folded, self._full = self._full, []
        if now < self._next_end:
            return folded
        for group in [group for group, window in self._windows.items() if now >= window.end]:
            window = self._windows.pop(group)
            if window.pending:
                folded.append(_taken(group, window))
        self._next_end = min((window.end for window in self._windows.values()), default=float("inf"))
        return folded

    def has_folded(self) -> bool:
        """Return whether folded lines are still to be reported."""
        return bool(self._full) or any(window.pending for window in self._windows.values())


def _taken(group: Group, window: _Window) -> Folded:
    folded = Folded(group, window.pending, tuple(window.request_ids))
    window.pending = 0
    window.request_ids.clear()
    return folded
