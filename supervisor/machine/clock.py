"""The clocks that the supervisor reads. Passed in, so that a test or the simulation can hold them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def seconds_asleep() -> float:
    """Return for how long the machine was asleep since it booted; 0 where the system does not report it."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the supervisor gets the time from."""

    monotonic: Callable[[], float] = time.monotonic  # seconds; for durations and deadlines; never goes back
    wall: Callable[[], float] = time.time  # seconds since the epoch; for records and a message's age; may jump
    asleep: Callable[[], float] = seconds_asleep  # the monotonic clock stands still meanwhile
