"""Names of errors: spelling does not count, no name stands in two tables."""

from __future__ import annotations

import itertools

import pytest

from workernode.protocol import FaultKind
from workernode.upstream.dialects import names


@pytest.mark.parametrize(
    "name", ["insufficient_quota", "INSUFFICIENT_QUOTA", "InsufficientQuota", " insufficient-quota"]
)
def test_spelling_does_not_count(name: str) -> None:
    assert names.kind_of_names(frozenset({names.plain_name(name)})) is FaultKind.QUOTA


def test_no_name_has_two_kinds() -> None:
    tables = {
        "quota": names.QUOTA, "key": names.KEY, "model": names.MODEL, "address": names.ADDRESS, "load": names.LOAD,
        "ramp": names.RAMP, "rate": names.RATE, "request": names.REQUEST, "weak": names.WEAK_REQUEST,
        "refused": names.REFUSED,
    }  # fmt: skip
    for (one, first), (other, second) in itertools.combinations(tables.items(), 2):
        assert not first & second, f"{one} and {other}: {first & second}"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("project_spend_limit_exceeded", FaultKind.QUOTA),
        ("billing_hard_limit_reached", FaultKind.QUOTA),
        ("RateLimitExceeded.EndpointRPMExceeded", FaultKind.RATE_LIMIT),
        ("server_error", None),
    ],
)
def test_a_family_of_names_has_one_kind(name: str, kind: FaultKind | None) -> None:
    assert names.kind_of_names(frozenset({names.plain_name(name)})) is kind


def test_a_name_that_may_be_the_keys_is_the_requests_where_the_body_says_which_member_is_wrong() -> None:
    may_be_key = names.plain_name("INVALID_ARGUMENT")
    assert names.kind_of_names(frozenset({may_be_key})) is FaultKind.REFUSED
    assert names.kind_of_names(frozenset({may_be_key, names.plain_name("invalid_request_error")})) is None
