"""Waiting for a thing with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Polls start this close together and end this far apart, in seconds: quick for what is nearly there, cheap otherwise.
SHORTEST, LONGEST = 0.005, 0.1
# A deadline is a bound for a broken run. A box that does much else beside the tests is slow, but the run is not broken.
PATIENCE = 4.0


def patient(timeout: float) -> float:
    """Return the seconds to wait, at most, for a thing that takes less than `timeout` seconds on a quiet box."""
    return timeout * PATIENCE


def until_equal(read: Callable[[], T], wanted: T, timeout: float, what: str) -> None:
    """Wait until a figure is what it should be. The rest as for `until`."""

    def reached() -> bool:
        seen = read()
        assert seen == wanted, seen
        return True

    until(reached, timeout, what)


def until(condition: Callable[[], T], timeout: float, what: str) -> T:
    """The first truthy value of `condition`, polled.

    An AssertionError that the condition raises counts as "not yet"; any other exception passes through.

    Args:
        timeout: seconds on a quiet box; a bound for a broken run, generous, never a guess of how long it takes.
        what: the thing waited for, in words, for the failure.

    Raises:
        AssertionError: the deadline passed; names `what` and the last value seen.
    """
    timeout = patient(timeout)
    deadline = time.monotonic() + timeout
    pause = SHORTEST
    while True:
        last: object
        try:
            last = value = condition()
            if value:
                return value
        except AssertionError as error:
            last = error
        left = deadline - time.monotonic()
        if left <= 0:
            raise AssertionError(f"no {what} within {timeout:g} s; last seen: {last!r}")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST)
