"""The rate-limit headers of an answer → RateLimitReport. Pure; the supervisor decides what to do with it.

This module reads `retry-after-ms`, `Retry-After` and `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, in the
forms of OpenAI (developers.openai.com/docs/guides/rate-limits; openai-python `src/openai/_base_client.py`), of Azure
OpenAI (whole seconds; 0 or -1 for "no figure") and of others (epochs, RFC 3339). A value that it cannot read is
counted, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from workernode.protocol import FaultKind, RateLimitReport

LIMIT_KINDS = (FaultKind.RATE_LIMIT, FaultKind.RAMP)
# A header that names a longer wait is read as this one: after a day, a probe does no harm.
LONGEST_NAMED_WAIT = 86_400.0  # seconds
# Nobody reaches a limit that is larger: the header holds something else.
LARGEST_FIGURE = 10**12
LONGEST_TEXT = 64  # characters of a header's value; known forms are much shorter
# A number above EPOCH_FROM is a moment in seconds since the epoch; above EPOCH_MS_FROM, in milliseconds.
EPOCH_FROM = 10**9
EPOCH_MS_FROM = 10**12

_NUMBER = re.compile(r"-?\d+(\.\d*)?", re.ASCII)
_GO_DURATION = re.compile(r"(\d+(?:\.\d*)?(?:h|ms|us|µs|ns|m|s))+", re.ASCII)
_GO_PART = re.compile(r"(\d+(?:\.\d*)?)(h|ms|us|µs|ns|m|s)", re.ASCII)
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def limits_of(
    status: int, headers: Mapping[str, str], at: float, *, asked: float | None = None, kind: FaultKind | None = None,
    wall: float,
) -> RateLimitReport | None:
    """Return the rate limits in the headers of an answer, or None if there are none.

    Args:
        status: HTTP status.
        headers: by lower-case name.
        at: monotonic, when the headers came.
        asked: monotonic, when the request was sent.
        kind: of the fault that the answer is; None for a good answer. A 429 without a kind is a rate limit.
        wall: seconds since the epoch at the same moment, for waits that are given as dates.
    """
    refused = kind in LIMIT_KINDS or (status == 429 and kind in (None, FaultKind.QUOTA))
    if not refused and not any(name.startswith("x-ratelimit-") for name in headers):
        return None
    reader = _Reader(headers, wall)
    kind = kind or FaultKind.RATE_LIMIT
    seen = RateLimitReport(
        at=at, kind=kind if refused else None, asked=asked, retry_after=reader.wait() if refused else None,
        limit_requests=reader.count("x-ratelimit-limit-requests"),
        remaining_requests=reader.count("x-ratelimit-remaining-requests"),
        reset_requests=reader.reset("x-ratelimit-reset-requests"),
        limit_tokens=reader.count("x-ratelimit-limit-tokens"),
        remaining_tokens=reader.count("x-ratelimit-remaining-tokens"),
        reset_tokens=reader.reset("x-ratelimit-reset-tokens"),
    )
    seen = replace(seen, unknown_formats=reader.unknown)
    return None if seen == RateLimitReport(at=at, kind=None, asked=asked) else seen


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Return how many seconds upstream asks the client to wait (0 to LONGEST_NAMED_WAIT), or None if it names no time.

    Args:
        headers: by lower-case name.
        wall: seconds since the epoch, now.
    """
    return _Reader(headers, wall).wait()


@dataclass(slots=True)
class _Reader:
    """Reads one answer's headers and counts those it cannot read."""

    headers: Mapping[str, str]
    wall: float
    unknown: int = field(default=0)

    def wait(self) -> float | None:
        """`retry-after-ms`, then `Retry-After` as seconds, then as an HTTP date: openai-python's order."""
        millis = self._text("retry-after-ms")
        if millis is not None:
            value = _number(millis)
            if value is not None:
                return _bounded(value / 1000)
            self.unknown += 1
        text = self._text("retry-after")
        if text is None:
            return None
        value = _number(text)
        if value is not None:
            return _bounded(value)
        moment = _http_date(text)
        if moment is None:
            self.unknown += 1
            return None
        return _bounded(moment - self.wall)

    def count(self, name: str) -> int | None:
        """A limit or what remains of it; some servers send -1 where they have no figure."""
        text = self._text(name)
        if text is None:
            return None
        value = _number(text)
        if value is None or value > LARGEST_FIGURE:
            self.unknown += 1
            return None
        return int(value) if value >= 0 else None

    def reset(self, name: str) -> float | None:
        """Seconds until the limit is whole again, from a Go duration, seconds, an epoch or RFC 3339."""
        text = self._text(name)
        if text is None:
            return None
        value = _number(text)
        if value is None:
            value = _go_duration(text)
        elif value >= EPOCH_FROM:
            value = max(0.0, value / (1000 if value >= EPOCH_MS_FROM else 1) - self.wall)
        if value is None:
            moment = _rfc3339(text)
            value = None if moment is None else max(0.0, moment - self.wall)
        if value is None or value > LONGEST_NAMED_WAIT:
            self.unknown += 1
            return None
        return value if value >= 0 else None

    def _text(self, name: str) -> str | None:
        """The header's value; None if it is missing or empty. One too long to be a figure is read as nothing known."""
        text = (self.headers.get(name) or "").strip()
        return text[:LONGEST_TEXT + 1] or None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_NAMED_WAIT)


def _number(text: str) -> float | None:
    return float(text) if len(text) <= LONGEST_TEXT and _NUMBER.fullmatch(text) else None


def _go_duration(text: str) -> float | None:
    """Return the seconds of a Go duration: `12ms`, `1s`, `6m0s`, `1h2m3.5s` (pkg.go.dev/time#Duration.String)."""
    if len(text) > LONGEST_TEXT or not _GO_DURATION.fullmatch(text):
        return None
    return sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(text))


def _http_date(text: str) -> float | None:
    """Return the epoch seconds of an HTTP date (RFC 9110, 5.6.7)."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _epoch(moment)


def _rfc3339(text: str) -> float | None:
    """Return the epoch seconds of an RFC 3339 moment: Python 3.10's fromisoformat reads no `Z`, nor five decimals."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d:\d\d))", text, re.ASCII)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{zone or '+00:00'}")
    except ValueError:
        return None
    return _epoch(moment)


def _epoch(moment: datetime) -> float | None:
    """A date without a zone is UTC: HTTP dates always are."""
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None
