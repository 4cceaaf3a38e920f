"""`--check`: is this machine's clock right? The node computes by it how old a task is, and refuses old tasks."""

from __future__ import annotations

import ctypes
import email.utils
import sys
import time
from collections.abc import Callable

from supervisor.check.findings import Context, Finding, Mark

NAME = "clock"
MAX_OK, MAX_WARNING = 2.0, 10.0  # seconds of difference; a Date header has whole seconds
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 512  # more than struct timex has on any platform
ADVICE = "switch on time synchronisation (timedatectl set-ntp true): the node computes the age of tasks by this clock"


def note_clock(context: Context, whose: str, date: str | None, asked_at: float) -> None:
    """Note how far another clock is ahead of ours.

    Args:
        context: gets the difference; a date that cannot be read is ignored.
        whose: "upstream", "the API server".
        date: the Date header of an answer, which has whole seconds.
        asked_at: our clock when the request was sent, seconds since the epoch.
    """
    try:
        theirs = email.utils.parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        return
    context.clocks.append((whose, theirs - (asked_at + time.time()) / 2))


def clock(context: Context, kernel: Callable[[], bool | None] | None = None) -> Finding:
    """Compare our clock with those of the servers that answered; without any, ask the kernel.

    Args:
        context: has the differences.
        kernel: returns whether the clock is synchronised; None: unknown.
    """
    if context.clocks:
        whose, ahead = max(context.clocks, key=lambda one: abs(one[1]))
        if abs(ahead) <= MAX_OK:
            return Finding(NAME, Mark.OK, f"agrees with the clock of {whose}")
        text = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the clock of {whose}"
        return Finding(NAME, Mark.FAULT if abs(ahead) > MAX_WARNING else Mark.WARNING, text, ADVICE)
    match (kernel or is_synchronised)():
        case True:
            return Finding(NAME, Mark.OK, "synchronised (by the kernel's status; no server answered)")
        case False:
            text = "not synchronised (by the kernel's status; no server answered)"
            return Finding(NAME, Mark.WARNING, text, ADVICE)
        case _:
            return Finding(NAME, Mark.SKIPPED, "no server answered with its time")


def is_synchronised() -> bool | None:
    """Return whether the kernel's clock is synchronised; None: the system does not report it."""
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # zeroes: reads, changes nothing
    return None if state < 0 else state != TIME_ERROR
