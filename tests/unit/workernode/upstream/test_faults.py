"""Every status, body and exception is a fault of one kind, with an error in OpenAI's shape."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode import errors
from workernode.errors import UpstreamFault, malformed_error, timeout_error
from workernode.net.errors import AnswerTooLarge, ConnectTimeout, Silence
from workernode.protocol import FaultKind
from workernode.redaction import hide_secrets_in_body
from workernode.upstream.dialects import names, read_error
from workernode.upstream.faults import (
    fault_of_bad_answer,
    fault_of_error,
    fault_of_exception,
    fault_of_response,
)

KEY = "sk-canary-5b1f0c7e9d"


def body(code: object = None, type: object = "invalid_request_error", message: object = "no") -> bytes:
    return json.dumps({"error": {"message": message, "type": type, "param": None, "code": code}}).encode()


def error_object(error: dict[str, Any], *, is_own_model: bool) -> UpstreamFault:
    """The fault of an error that stands in a 200."""
    found = read_error({"error": error})
    assert found is not None
    return fault_of_error(found, is_own_model=is_own_model)


def kind_of(status: int, raw: bytes = b"", *, is_own_model: bool = True, **headers: str) -> FaultKind:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fault_of_response(status, named, raw, is_own_model=is_own_model).kind


# --- status and body → kind: spec 4 and 5, developers.openai.com/docs/guides/error-codes ---

KINDS = {
    # The request itself.
    "400": (400, body("context_length_exceeded"), FaultKind.CLIENT),
    "400_without_a_body": (400, b"", FaultKind.ADDRESS),
    "405": (405, b"", FaultKind.ADDRESS),
    "413": (413, b"<html>", FaultKind.CLIENT),
    "415": (415, b"", FaultKind.CLIENT),
    "422": (422, b'{"detail":"x"}', FaultKind.CLIENT),
    "404_of_anything": (404, b"page not found", FaultKind.ADDRESS),
    "403_by_policy": (403, body("content_policy_violation"), FaultKind.CLIENT),
    "redirect": (307, b"", FaultKind.ADDRESS),
    # Passing.
    "408": (408, b"", FaultKind.PASSING),
    "409": (409, body(), FaultKind.PASSING),
    "425": (425, b"", FaultKind.PASSING),
    "500": (500, body(type="server_error"), FaultKind.PASSING),
    "502_page_of_a_proxy": (502, b"<html>", FaultKind.UNAVAILABLE),
    "503": (503, body("server_is_overloaded", "service_unavailable_error"), FaultKind.UNAVAILABLE),
    "529": (529, body(type="overloaded_error"), FaultKind.UNAVAILABLE),
    "204": (204, b"", FaultKind.PASSING),
    "500_that_speaks_of_a_client": (500, body("context_length_exceeded"), FaultKind.PASSING),
    # The three kinds of 429.
    "429": (429, b"", FaultKind.RATE_LIMIT),
    "429_page_of_a_proxy": (429, b"<html>Too many requests: insufficient_quota</html>", FaultKind.RATE_LIMIT),
    "429_requests": (429, body("rate_limit_exceeded", "requests"), FaultKind.RATE_LIMIT),
    "429_tokens": (429, body(None, "tokens"), FaultKind.RATE_LIMIT),
    "429_words_do_not_count": (
        429,
        body("rate_limit_exceeded", "requests", "insufficient_quota billing"),
        FaultKind.RATE_LIMIT,
    ),
    "429_number_as_code": (429, body(429, None), FaultKind.RATE_LIMIT),
    "429_that_names_a_key": (429, body("invalid_api_key"), FaultKind.RATE_LIMIT),
    "429_ramp": (429, body("slow_down", "rate_limit_error"), FaultKind.RAMP),
    "429_quota": (429, body("insufficient_quota", "insufficient_quota"), FaultKind.QUOTA),
    "429_quota_by_type_alone": (429, body(None, "insufficient_quota"), FaultKind.QUOTA),
    "429_credit": (429, body("credit_balance_exhausted"), FaultKind.QUOTA),
    "429_organization_spend": (429, body("organization_spend_limit_exceeded"), FaultKind.QUOTA),
    "429_project_spend": (429, body("project_spend_limit_exceeded"), FaultKind.QUOTA),
    "429_organization_usage": (429, body("organization_usage_limit_exceeded"), FaultKind.QUOTA),
    "429_billing": (429, body("billing_hard_limit_reached"), FaultKind.QUOTA),
    "402": (402, b"", FaultKind.QUOTA),
    # A person must act.
    "401": (401, body("invalid_api_key"), FaultKind.KEY),
    "401_without_a_body": (401, b"", FaultKind.KEY),
    "403": (403, b"", FaultKind.REFUSED),
    "403_unsupported_country": (403, body("unsupported_country_region_territory"), FaultKind.REFUSED),
    "403_no_access_to_our_model": (403, body("model_not_found"), FaultKind.MODEL),
    "403_billing": (403, body("billing_not_active"), FaultKind.QUOTA),
    "403_invalid_request": (403, body(None, "invalid_request_error"), FaultKind.REFUSED),
    "404_model": (404, body("model_not_found"), FaultKind.MODEL),
}


@pytest.mark.parametrize(("status", "raw", "kind"), KINDS.values(), ids=KINDS.keys())
def test_an_answer_that_is_no_200_is_of_a_kind(status: int, raw: bytes, kind: FaultKind) -> None:
    fault = fault_of_response(status, {}, raw, is_own_model=True)
    assert (fault.kind, fault.http_status) == (kind, status)


def test_a_model_that_the_client_chose_is_the_clients_fault() -> None:
    for status in (403, 404):
        assert kind_of(status, body("model_not_found"), is_own_model=False) is FaultKind.CLIENT


@pytest.mark.parametrize(
    ("status", "value", "kind"),
    [
        (422, "true", FaultKind.PASSING),
        (422, "TRUE ", FaultKind.PASSING),
        (503, "false", FaultKind.CLIENT),
        (409, "false", FaultKind.CLIENT),
        (503, "maybe", FaultKind.UNAVAILABLE),
        (429, "true", FaultKind.RATE_LIMIT),
        (401, "true", FaultKind.KEY),
    ],
)
def test_x_should_retry_decides_whether_asking_again_helps(status: int, value: str, kind: FaultKind) -> None:
    assert kind_of(status, x_should_retry=value) is kind


# --- an error inside a 200 ---

INSIDE = {
    "server_error": ({"message": "x", "type": "server_error"}, FaultKind.PASSING),
    "without_anything": ({}, FaultKind.PASSING),
    "rate_limit": ({"type": "requests", "code": "rate_limit_exceeded"}, FaultKind.RATE_LIMIT),
    "quota": ({"type": "insufficient_quota"}, FaultKind.QUOTA),
    "key": ({"code": "invalid_api_key"}, FaultKind.KEY),
    "client": ({"type": "invalid_request_error"}, FaultKind.CLIENT),
    "policy": ({"code": "content_filter"}, FaultKind.CLIENT),
    "status_as_code": ({"code": 400}, FaultKind.CLIENT),
    "status_as_code_503": ({"code": 503}, FaultKind.UNAVAILABLE),
    "status_as_code_401": ({"code": 401}, FaultKind.KEY),
    "number_that_is_no_status": ({"code": 7}, FaultKind.PASSING),
    "model": ({"code": "model_not_found"}, FaultKind.MODEL),
}


@pytest.mark.parametrize(("error", "kind"), INSIDE.values(), ids=INSIDE.keys())
def test_an_error_inside_a_200_is_of_a_kind(error: dict[str, Any], kind: FaultKind) -> None:
    fault = error_object(error, is_own_model=True)
    assert (fault.kind, fault.http_status) == (kind, 200)
    assert fault.body["error"] == {**dict.fromkeys(fault.body["error"]), **fault.body["error"], **error}


# --- the client's error ---


def test_upstreams_own_error_reaches_the_client_as_it_is() -> None:
    raw = json.dumps({"error": {"message": "x" * 900, "inner": [1]}, "request_id": "r"}).encode()
    fault = fault_of_response(400, {}, raw, is_own_model=True)
    assert fault.body["error"].items() >= json.loads(raw)["error"].items()
    assert fault.body["request_id"] == "r"
    assert len(fault.info().message) <= errors.MAX_MESSAGE, "what people read is bounded"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>nginx</html>",
        b"[]",
        b"7",
        b'{"error":{"message":"x"}',
        b'{"error":{"message":"\xff"}}',
        b'{"error":{"param":' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
    ],
    ids=["empty", "html", "list", "number", "half", "not_utf8", "deep"],
)
def test_a_refusal_without_an_error_names_status_and_content_type_in_openais_shape(raw: bytes) -> None:
    fault = fault_of_response(502, {"content-type": "text/html; charset=x"}, raw, is_own_model=True)
    error = fault.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "502" in error["message"]
    assert b"nginx" not in json.dumps(fault.body).encode()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_an_error_with_a_number_that_has_no_json_form_is_told_without_it(number: str) -> None:
    """Written as it is it would be no JSON, and the gateway would leave its client waiting for ever."""
    raw = b'{"error":{"message":"too much","param":%b}}' % number.encode()
    for fault in (
        fault_of_response(400, {}, raw, is_own_model=True),
        error_object(json.loads(raw)["error"], is_own_model=True),
    ):
        assert json.loads(json.dumps(fault.body, allow_nan=False))["error"]["message"] == "too much"


def test_a_redirect_says_what_to_do() -> None:
    assert "set API_URL" in fault_of_response(308, {"location": "https://other"}, b"", is_own_model=True).message


@pytest.mark.parametrize(
    ("made", "type", "code"),
    [
        (timeout_error(300), "timeout", "timeout"),
        (malformed_error("no"), "invalid_request_error", "malformed_task"),
        (errors.broken_error("no"), "upstream_error", "stream_interrupted"),
        (fault_of_bad_answer("no").body, "upstream_error", "bad_answer"),
        (UpstreamFault(FaultKind.PASSING, "no").body, "upstream_error", None),
    ],
)
def test_our_own_errors_have_openais_shape(made: dict[str, Any], type: str, code: str | None) -> None:
    assert set(made["error"]) == {"message", "type", "param", "code"}
    assert (made["error"]["type"], made["error"]["code"]) == (type, code)


# --- a connection that failed ---

EXCEPTIONS = {
    "refused": (ConnectionRefusedError(111, "Connection refused"), "refuses the connection", FaultKind.UNAVAILABLE),
    "name": (socket.gaierror(-2, "Name or service not known"), "cannot be resolved", FaultKind.UNAVAILABLE),
    "no_route": (OSError(errno.EHOSTUNREACH, "No route to host"), "No route", FaultKind.UNAVAILABLE),
    "no_connection": (ConnectTimeout("no connection within 5 s"), "does not accept", FaultKind.UNAVAILABLE),
    "reset": (ConnectionResetError(104, "reset"), "reset the connection", FaultKind.PASSING),
    "pipe": (BrokenPipeError(32, "pipe"), "closed the connection", FaultKind.PASSING),
    "no_answer": (http.client.RemoteDisconnected("Remote end closed"), "without an answer", FaultKind.PASSING),
    "half": (http.client.IncompleteRead(b"", 5), "in the middle", FaultKind.PASSING),
    "deadline": (TimeoutError("no time is left"), "within the task's time", FaultKind.PASSING),
    "silence": (Silence("silent for 120 s"), "silent for 120 s in the middle", FaultKind.PASSING),
    "no HTTP": (http.client.HTTPException("its answer is not HTTP (x)"), "its answer is not HTTP", FaultKind.PASSING),
    "TLS": (ssl.SSLError(1, "[SSL: UNEXPECTED_EOF] EOF (_ssl.c:1)"), "TLS with it failed", FaultKind.PASSING),
    "too large": (AnswerTooLarge("its answer is larger than 64 MiB"), "larger than 64 MiB", FaultKind.PASSING),
    "long": (http.client.BadStatusLine("x" * 500), "xxx", FaultKind.PASSING),
    "no text": (OSError(), "no reason is known", FaultKind.PASSING),
    "certificate": (
        ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed"), "not trusted", FaultKind.CERTIFICATE,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("exc", "words", "kind"), EXCEPTIONS.values(), ids=EXCEPTIONS.keys())
def test_a_failed_connection_is_of_a_kind_and_says_why(exc: Exception, words: str, kind: FaultKind) -> None:
    fault = fault_of_exception(exc)
    assert (fault.kind, fault.http_status) == (kind, 0)
    assert words in fault.message
    assert type(exc).__name__ not in fault.message, "a name of Python's means nothing to a user"
    assert len(fault.message) < 300


def test_a_fault_stays_the_fault_that_it_is() -> None:
    fault = fault_of_bad_answer("no")
    assert fault_of_exception(fault) is fault


# --- whatever upstream sends ---

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAME = st.sampled_from(sorted(names.QUOTA | names.KEY | names.RATE | names.REQUEST | names.WEAK_REQUEST))
ERROR = st.fixed_dictionaries(
    {}, optional={"message": VALUE, "type": VALUE | NAME, "code": VALUE | NAME, "param": VALUE}
)
RAW = st.binary(max_size=60) | (ERROR.map(lambda error: {"error": error}) | VALUE).map(
    lambda it: json.dumps(it).encode()
)


@given(
    st.integers(100, 599),
    RAW,
    st.booleans(),
    st.dictionaries(st.sampled_from(["x-should-retry", "content-type"]), st.text()),
)
def test_any_answer_has_a_kind_and_an_error_for_the_client(
    status: int, raw: bytes, is_own_model: bool, headers: dict[str, str]
) -> None:
    _can_be_told(fault_of_response(status, headers, raw, is_own_model=is_own_model))


@given(ERROR, st.booleans())
def test_any_error_inside_a_200_has_a_kind_and_an_error_for_the_client(
    error: dict[str, Any], is_own_model: bool
) -> None:
    _can_be_told(error_object(error, is_own_model=is_own_model))


def _can_be_told(fault: UpstreamFault) -> None:
    assert isinstance(fault.kind, FaultKind)
    assert isinstance(fault.body["error"], dict)
    assert fault.message
    assert isinstance(fault.info().code, str)
    text = json.dumps(hide_secrets_in_body(fault.body, [KEY]), allow_nan=False)
    assert isinstance(json.loads(text)["error"], dict)
