"""workernode/upstream/ratelimit_headers.py: every form of header met in the wild, and those that are not understood."""

from __future__ import annotations

import math
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.protocol import FaultKind, RateLimitReport
from workernode.upstream.ratelimit_headers import LONGEST_NAMED_WAIT, limits_of, retry_after

WALL = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT

WAITS = {
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "milliseconds with a fraction": ({"retry-after-ms": "12.5"}, 0.0125),
    "milliseconds win": ({"retry-after-ms": "90", "retry-after": "7"}, 0.09),
    "seconds": ({"retry-after": "7"}, 7.0),
    "fraction of seconds": ({"retry-after": "0.25"}, 0.25),
    "spaces around": ({"retry-after": " 3 "}, 3.0),
    "zero": ({"retry-after": "0"}, 0.0),
    "negative is no wait": ({"retry-after": "-4"}, 0.0),
    "a date to come": ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
    "a date that is past": ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
    "a date without a zone": ({"retry-after": "Fri, 15 Jan 2027 08:01:00"}, 60.0),
    "unreadable milliseconds leave the seconds": ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
    "longer than a day": ({"retry-after": "9999999"}, LONGEST_NAMED_WAIT),
    "missing": ({}, None),
    "empty": ({"retry-after": ""}, None),
    "words": ({"retry-after": "later"}, None),
    "not a number": ({"retry-after": "nan"}, None),
    "infinite": ({"retry-after": "1e999"}, None),
    "a number too long to be one": ({"retry-after": "9" * 5000}, None),
    "a date that is none": ({"retry-after": "Fri, 99 Foo 2027 08:00:30 GMT"}, None),
    "digits of another script": ({"retry-after": "٣"}, None),
}


@pytest.mark.parametrize(("headers", "seconds"), WAITS.values(), ids=WAITS.keys())
def test_a_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, WALL) == seconds


RESETS = {
    "milliseconds": ("12ms", 0.012, 0),
    "a second": ("1s", 1.0, 0),
    "minutes and seconds": ("6m0s", 360.0, 0),
    "hours": ("1h2m3.5s", 3723.5, 0),
    "microseconds": ("250µs", 0.00025, 0),
    "Azure's whole seconds": ("59", 59.0, 0),
    "Azure's nothing": ("0", 0.0, 0),
    "Azure's unknown": ("-1", None, 0),
    "seconds with a fraction": ("7.66", 7.66, 0),
    "epoch": ("1800000020", 20.0, 0),
    "epoch in milliseconds": ("1800000020000", 20.0, 0),
    "epoch that is past": ("1799999990", 0.0, 0),
    "RFC 3339": ("2027-01-15T08:01:00Z", 60.0, 0),
    "RFC 3339 with a zone and a fraction": ("2027-01-15T09:01:00.25+01:00", 60.25, 0),
    "empty": ("", None, 0),
    "words": ("in a while", None, 1),
    "a date that is none": ("2027-13-45T08:01:00Z", None, 1),
    "a duration of a year": ("8760h", None, 1),
    "a duration with rubbish behind": ("1s!", None, 1),
    "too long": ("1s" * 500, None, 1),
}


@pytest.mark.parametrize(("text", "seconds", "unknown"), RESETS.values(), ids=RESETS.keys())
def test_a_reset_is_read_in_every_form(text: str, seconds: float | None, unknown: int) -> None:
    headers = {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": text}
    seen = limits_of(200, headers, 10.0, wall=WALL)
    assert seen is not None
    assert seen.reset_requests == (None if seconds is None else pytest.approx(seconds))
    assert seen.unknown_formats == unknown


COUNTS = {
    "60": (60, 0), "0": (0, 0), "-1": (None, 0), "149984.0": (149984, 0), "many": (None, 1), "9" * 13: (None, 1),
    "": (None, 0),
}


@pytest.mark.parametrize("text", COUNTS)
def test_a_figure_is_read_or_counted_as_unknown(text: str) -> None:
    seen = limits_of(200, {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-tokens": text}, 10.0, wall=WALL)
    assert seen is not None
    assert (seen.remaining_tokens, seen.unknown_formats) == COUNTS[text]


def test_openais_answer_is_read_whole() -> None:
    headers = Message()  # what http.client gives: names in any case
    for name, value in {
        "X-RateLimit-Limit-Requests": "60", "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "59", "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s",
    }.items():
        headers[name] = value
    assert limits_of(200, headers, 10.0, asked=9.5, wall=WALL) == RateLimitReport(  # type: ignore[arg-type]
        at=10.0, kind=None, asked=9.5, limit_requests=60, remaining_requests=59, reset_requests=1.0,
        limit_tokens=150_000, remaining_tokens=149_984, reset_tokens=360.0,
    )


def test_azures_refusal_is_read_whole() -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6", "retry-after-ms": "87"}
    assert limits_of(429, headers, 10.0, kind=FaultKind.RATE_LIMIT, wall=WALL) == RateLimitReport(
        at=10.0, kind=FaultKind.RATE_LIMIT, retry_after=0.087, remaining_requests=0, reset_requests=6.0
    )


def test_an_answer_without_figures_says_nothing() -> None:
    assert limits_of(200, {"content-type": "application/json", "retry-after": "9"}, 10.0, wall=WALL) is None


@pytest.mark.parametrize(
    ("kind", "reported"),
    [(None, FaultKind.RATE_LIMIT), (FaultKind.RATE_LIMIT, FaultKind.RATE_LIMIT),
     (FaultKind.RAMP, FaultKind.RAMP), (FaultKind.QUOTA, FaultKind.QUOTA)],
)
def test_a_429_without_headers_is_reported_to_the_supervisor(kind: FaultKind | None, reported: FaultKind) -> None:
    assert limits_of(429, {}, 10.0, kind=kind, wall=WALL) == RateLimitReport(at=10.0, kind=reported)


def test_a_wait_is_the_nodes_only_with_a_429() -> None:
    headers = {"retry-after": "9", "x-ratelimit-remaining-requests": "5"}
    busy, limited = limits_of(503, headers, 10.0, wall=WALL), limits_of(429, headers, 10.0, wall=WALL)
    assert busy is not None
    assert limited is not None
    assert (busy.kind, busy.retry_after, limited.retry_after) == (None, None, 9.0)


NAMES = ["retry-after", "retry-after-ms"] + [
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
]


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.from_regex(r"[-+0-9.eEinfa:TZmsh]{0,30}")))
def test_no_header_can_do_harm(headers: dict[str, str]) -> None:
    seen = limits_of(429, headers, 10.0, wall=WALL)
    assert seen is not None
    assert seen.retry_after is None or 0 <= seen.retry_after <= LONGEST_NAMED_WAIT
    for value in (seen.reset_requests, seen.reset_tokens, seen.limit_requests, seen.remaining_tokens):
        assert value is None or (math.isfinite(value) and value >= 0)


def test_a_429_of_an_overloaded_engine_is_no_rate_limit() -> None:
    """Moonshot's engine_overloaded_error: the node's rate is not to blame."""
    assert limits_of(429, {}, 10.0, kind=FaultKind.UNAVAILABLE, wall=WALL) is None
