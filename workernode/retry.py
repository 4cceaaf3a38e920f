"""Retries, with tenacity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import Retrying

T = TypeVar("T")


def call_with_retries(func: Callable[[], T], **policy: Any) -> T:
    """Call `func`, retrying by the policy, and return its result.

    The retry loop is set up by the first failure: it costs 20 µs (docs/performance.md), and nearly every call succeeds.

    Args:
        policy: `retry`, `wait`, `stop` and `sleep` of tenacity.Retrying. The first call counts as a try.

    Raises:
        Exception: what the last try raised.
    """
    try:
        return func()
    except Exception as exc:
        failures = [exc]

    def again() -> T:
        if failures:
            raise failures.pop()
        return func()

    return Retrying(reraise=True, **policy)(again)
