"""What is recorded of a client, of a request and of an error: never a key, never a text of the request."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from workernode.record import Client, Error, client_of, error_of, request_of


@pytest.mark.parametrize(
    ("headers", "data", "client"),
    [
        pytest.param({}, {}, Client("", None, None), id="nothing"),
        pytest.param({"x-real-ip": "::1"}, {}, Client("", "::1", None), id="lower-case-and-no-list"),
        pytest.param({"X-Real-Ip": ["10.0.0.1:80"]}, {}, Client("", "10.0.0.1:80", None), id="real-ip"),
        pytest.param({"X-Forwarded-For": ["<script>"]}, {}, Client("", None, None), id="no-address"),
        pytest.param({"X-Forwarded-For": [None], "User-Agent": 7}, {}, Client("", None, None), id="wrong-types"),
        pytest.param({"User-Agent": ["a" * 1_000_000]}, {}, Client("a" * 256, None, None), id="a-megabyte"),
        pytest.param({}, {"user": {"id": 1}}, Client("", None, None), id="user-is-an-object"),
        pytest.param({}, {"user": 12}, Client("", None, "12"), id="user-is-a-number"),
        pytest.param({}, {"user": True}, Client("", None, None), id="user-is-a-boolean"),
        pytest.param({}, {"user": 10**5000}, Client("", None, None), id="user-has-5000-digits"),
    ],
)
def test_the_record_has_the_client_as_far_as_its_headers_are_plausible(
    headers: dict[str, Any], data: dict[str, Any], client: Client
) -> None:
    assert client_of(headers, data, "") == client


KEY = {"Authorization": ["Bearer sk-client-1"]}


def test_a_client_is_known_by_its_key_without_the_key_being_stored() -> None:
    salt = b"salt-1".ljust(64, b"\0")
    inner = hashlib.sha256(bytes(each ^ 0x36 for each in salt) + b"Bearer sk-client-1").digest()
    by_hand = hashlib.sha256(bytes(each ^ 0x5C for each in salt) + inner).hexdigest()  # RFC 2104
    assert client_of(KEY, {}, "salt-1").key_id == by_hand[:16]


@pytest.mark.parametrize(
    ("headers", "salt"),
    [
        (KEY, ""),
        ({}, "salt-1"),
        ({"Authorization": [""]}, "salt-1"),
        ({"Authorization": [5]}, "salt-1"),
    ],
    ids=["no-salt", "no-key", "empty", "no-text"],
)
def test_without_a_salt_or_a_key_there_is_no_key_id(headers: dict[str, Any], salt: str) -> None:
    assert client_of(headers, {}, salt).key_id is None


def test_two_clients_and_two_salts_give_different_key_ids() -> None:
    other = {"authorization": "Bearer sk-client-2\ud800"}
    ids = {client_of(headers, {}, salt).key_id for headers in (KEY, other) for salt in ("salt-1", "salt-2")}
    assert len(ids) == 4


def test_a_name_that_may_be_text_is_dropped() -> None:
    data = {"reasoning_effort": "tell me a story", "service_tier": "x" * 33, "response_format": "json"}
    request = request_of(data, stream=False, size=1)
    assert (request.settings, request.response_format) == ({}, None)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        pytest.param(None, 0, None, id="none"),
        pytest.param({"error": "text"}, 0, None, id="not-openai's"),
        pytest.param(
            {"error": {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}}, 429,
            Error("requests", "rate_limit_exceeded", "Slow down."), id="rate-limit",
        ),
        pytest.param({"error": {"code": 400, "type": None}}, 500, Error(None, "400", None), id="code-is-a-number"),
        pytest.param(
            {"error": {"message": "Incorrect API key provided: sk-ab***yz.", "code": "invalid_api_key"}}, 401,
            Error(None, "invalid_api_key", "Incorrect API key provided: ***"), id="a-key",
        ),
        pytest.param(
            {"error": {"message": "bad input: 'my diary'", "type": "invalid_request_error"}}, 400,
            Error("invalid_request_error", None, None), id="quotes-the-request",
        ),
        pytest.param(
            {"error": {"message": "not JSON", "type": "invalid_request_error"}}, 0,
            Error("invalid_request_error", None, "not JSON"), id="the-node's-own",
        ),
    ],
)  # fmt: skip
def test_an_error_for_the_client_has_no_key_and_no_request_text(
    body: dict[str, Any] | None, status: int, error: Error | None
) -> None:
    assert error_of(body, upstream_status=status) == error
