"""Moments as records, log lines and the page show them. Pure."""

from __future__ import annotations

import time
from functools import lru_cache


def rfc3339(seconds: float | None) -> str | None:
    """Return the moment as RFC 3339 in UTC with milliseconds; None for None and for a moment out of range."""
    if seconds is None or not 0 <= seconds < 253402300799:  # the year 10000; a NaN fails the comparison
        return None
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{_rfc3339_second(whole)}.{milliseconds:03}Z"


@lru_cache(maxsize=1024)  # formatting was half of a record's cost, and many records share the same seconds
def _rfc3339_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
