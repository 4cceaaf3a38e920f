"""The two clocks that the supervisor reads. Passed in, so that a test or the simulation can hold them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the supervisor gets the time from."""

    monotonic: Callable[[], float] = time.monotonic  # seconds; for durations and deadlines; never goes back
    wall: Callable[[], float] = time.time  # seconds since the epoch; for records and a message's age; may jump
