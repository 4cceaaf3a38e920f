"""`--check`: is our clock right? How old a task is, and whether anybody still waits for it, is told by clocks."""

from __future__ import annotations

import ctypes
import email.utils
import sys
import time
from collections.abc import Callable

from supervisor.check.findings import Context, Finding, Mark

NAME = "clock"
AHEAD, FAR_AHEAD = 2.0, 10.0  # seconds of difference: what a Date can show, and what tasks' time can bear
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 512  # more than struct timex has anywhere


def note_clock(context: Context, whose: str, date: str | None, asked_at: float) -> None:
    """Note how far somebody's clock is ahead of ours, by the Date of an answer, which has whole seconds.

    Args:
        asked_at: our clock when it was asked, seconds since the epoch.
    """
    try:
        told = email.utils.parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        return
    context.clocks.append((whose, told - (asked_at + time.time()) / 2))


def clock(context: Context, kernel: Callable[[], bool | None] | None = None) -> Finding:
    """Our clock against those of who answered; without any, what the kernel says of it.

    Args:
        kernel: whether the clock is synchronised; None: not known.
    """
    advice = "switch time synchronisation on (timedatectl set-ntp true): tasks' ages are told by the clock"
    if context.clocks:
        whose, ahead = max(context.clocks, key=lambda one: abs(one[1]))
        if abs(ahead) <= AHEAD:
            return Finding(NAME, Mark.OK, f"as {whose} has it")
        said = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} that of {whose}"
        return Finding(NAME, Mark.FAULT if abs(ahead) > FAR_AHEAD else Mark.LOOK, said, advice)
    match (kernel or synchronised)():
        case True:
            return Finding(NAME, Mark.OK, "synchronised, says the kernel")
        case False:
            said = "not synchronised, says the kernel, and nobody was there to compare it with"
            return Finding(NAME, Mark.LOOK, said, advice)
        case _:
            return Finding(NAME, Mark.NONE, "nobody was there to compare it with")


def synchronised() -> bool | None:
    """Whether the kernel's clock follows a better one; None where the kernel does not say."""
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # zeroes: it only asks
    return None if state < 0 else state != TIME_ERROR
