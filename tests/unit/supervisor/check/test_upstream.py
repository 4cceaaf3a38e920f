"""`--check` of a remote node: the findings about upstream's address, key and model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.ports import free_port
from supervisor.check import upstream as check_upstream
from supervisor.check.findings import Finding, Mark, run_all
from tests.support.check import KEY, Api, context, one_line
from tests.support.upstream import FakeUpstream


def upstream_findings(api: Api, **variables: str) -> list[Finding]:
    return run_all(check_upstream.checks(), context(API_URL=api.url, **variables))


def test_an_upstream_in_order(api: Api) -> None:
    found = upstream_findings(api)
    assert [one.mark for one in found] == [Mark.OK] * 3
    assert [one.text for one in found[1:]] == ["it takes the key, and nobody without one", "it serves gpt-4o"]
    assert api.seen == [("/v1/models", f"Bearer {KEY}"), ("/v1/models", None)]


def test_a_list_that_is_open_says_nothing_of_the_key(api: Api) -> None:
    api.open = True
    assert [one.mark for one in upstream_findings(api)] == [Mark.OK, Mark.SKIPPED, Mark.OK]


@pytest.mark.parametrize(
    ("status", "error", "mark", "expected"),
    [
        (401, {"code": "invalid_api_key"}, Mark.FAULT, "refused the API key (401 invalid_api_key) at http://127.0.0.1:"),
        (403, {"type": "permission_error"}, Mark.FAULT, "refused the API key (403 permission_error)"),
        (429, {"type": "insufficient_quota"}, Mark.FAULT, "quota of the API key is used up"),
        (429, {"code": "rate_limit_exceeded"}, Mark.WARNING, "limits the rate of calls"),
    ],
)
def test_a_refusal_is_described_in_the_nodes_own_sentence(
    api: Api, status: int, error: dict[str, str], mark: Mark, expected: str
) -> None:
    api.status = status
    api.body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", **error}}).encode()
    address, key, model = upstream_findings(api)
    assert (address.mark, key.mark, model.mark) == (Mark.OK, mark, Mark.SKIPPED)
    assert expected in key.text
    assert key.advice
    assert KEY not in one_line(key)


@pytest.mark.parametrize(
    ("status", "expected"), [(503, "fails (503)"), (302, "redirects (302)")], ids=["it fails", "it redirects"]
)
def test_an_upstream_that_serves_nobody_is_at_fault(api: Api, status: int, expected: str) -> None:
    api.status = status
    found = upstream_findings(api)
    assert [one.mark for one in found] == [Mark.FAULT, Mark.SKIPPED, Mark.SKIPPED]
    assert expected in found[0].text


def test_an_upstream_without_a_list_is_no_fault(api: Api) -> None:
    api.status = 404
    found = upstream_findings(api)
    assert [one.mark for one in found] == [Mark.OK, Mark.SKIPPED, Mark.SKIPPED]
    assert "other questions cost money" in found[1].text


@pytest.mark.parametrize(
    ("listed", "wanted", "mark", "advice"),
    [
        (["gpt-4o-x", "dall-e"], {}, Mark.FAULT, "set MODEL_NAME, or UPSTREAM_MODEL, to one that it lists: gpt-4o-x"),
        (["gpt-4o"], {"UPSTREAM_MODEL": "gpt-5"}, Mark.FAULT, "set UPSTREAM_MODEL to one that it lists: gpt-4o"),
        (["gpt-4o:latest"], {}, Mark.OK, ""),
        (["models/gpt-4o"], {}, Mark.OK, ""),
        ([], {}, Mark.WARNING, "send a task to know"),
    ],
    ids=["not there", "other name", "with a tag", "with a path", "empty"],
)
def test_the_model_is_looked_for_in_the_list(
    api: Api, listed: list[str], wanted: dict[str, str], mark: Mark, advice: str
) -> None:
    api.body = json.dumps({"data": [{"id": name} for name in listed]}).encode()
    model = upstream_findings(api, **wanted)[2]
    assert (model.mark, model.advice) == (mark, advice)


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b'{"data": 7}'])
def test_a_list_that_cannot_be_read_needs_a_look(api: Api, body: bytes) -> None:
    api.body = body
    assert upstream_findings(api)[2].mark is Mark.WARNING


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (lambda: f"http://127.0.0.1:{free_port()}", "nothing listens at http://127.0.0.1:"),
        (lambda: "https://no.such.host.invalid", "no.such.host.invalid has no address"),
    ],
)
def test_an_upstream_that_cannot_be_reached(url: Callable[[], str], expected: str) -> None:
    found = run_all(check_upstream.checks(), context(API_URL=url()))
    assert [one.mark for one in found] == [Mark.FAULT, Mark.SKIPPED, Mark.SKIPPED]
    assert found[0].text.startswith(expected)


def test_an_untrusted_certificate_is_named_in_the_error(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    found = run_all(check_upstream.checks(), context(API_URL=tls_upstream[0].url))
    assert found[0].mark is Mark.FAULT
    assert "is not trusted (self" in found[0].text


def test_http_to_a_tls_port_is_named_in_the_error(api: Api) -> None:
    found = run_all(check_upstream.checks(), context(API_URL=api.url.replace("http://", "https://")))
    assert "no TLS with" in found[0].text
