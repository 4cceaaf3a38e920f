"""Trying again, with tenacity, what failed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import Retrying

T = TypeVar("T")


def call_with_retries(deed: Callable[[], T], **policy: Any) -> T:
    """Return what the deed returns; where it fails, try it again as the policy says.

    The loop is set up by the first failure: it costs 20 µs (docs/performance.md), and nearly every deed succeeds.

    Args:
        policy: `retry`, `wait`, `stop` and `sleep` of tenacity.Retrying. The first try counts.

    Raises:
        Exception: what the last try raised.
    """
    try:
        return deed()
    except Exception as exc:
        failures = [exc]

    def again() -> T:
        if failures:
            raise failures.pop()
        return deed()

    return Retrying(reraise=True, **policy)(again)
