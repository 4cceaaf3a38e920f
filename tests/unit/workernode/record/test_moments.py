"""Moments in records: RFC 3339, or null."""

from __future__ import annotations

import math

import pytest

from workernode.record import rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (math.nan, None),
        (-1.0, None),
        (1e18, None),
        (253402300799.0, None),
        (0.9996, "1970-01-01T00:00:01.000Z"),
        (1709164799.9994, "2024-02-28T23:59:59.999Z"),
    ],
)
def test_a_moment_is_rfc_3339_or_null(seconds: float | None, text: str | None) -> None:
    assert rfc3339(seconds) == text
