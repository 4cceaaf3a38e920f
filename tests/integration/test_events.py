"""supervisor/report/reporter.py against an API server: the Events are as the operator wants them (spec 1.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.report.reporter import LONGEST_MESSAGE, Cluster, Report, Reporter, Unreportable, report_once
from tests.support.apiserver import ApiServer
from tests.support.wait import until
from workernode import settings

WAIT = 10.0  # seconds
REPORT = Report("AuthenticationError", "OpenAI refused the API key (401 invalid_api_key); set API_KEY to a valid key")
ENVIRON = {
    "NODE_TYPE": "remote", "MODEL_NAME": "m", "API_URL": "http://upstream.invalid/v1", "API_KEY": "sk-very-secret",
    "PULSAR_URL": "pulsar://broker.invalid", "AIMODEL_NAME": "gpt-4", "AIMODEL_NAMESPACE": "prod",
}  # fmt: skip


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.report.reporter.READ_TIME", 0.5)
    monkeypatch.setattr("supervisor.report.reporter.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("supervisor.report.reporter.LONGEST_PAUSE", 0.0)


def cluster(api: ApiServer, namespace: str = "prod") -> Cluster:
    return Cluster("gpt-4", namespace, api.environ, str(api.service_account))


def test_the_event_has_exactly_the_shape_that_the_operator_acts_on(api: ApiServer) -> None:
    cluster(api).post(REPORT)
    assert api.events == [
        {
            "metadata": {"generateName": "gpt-4-", "namespace": "prod"},
            "involvedObject": {"kind": "AIModel", "name": "gpt-4", "namespace": "prod"},
            "type": "Warning",
            "reason": "AuthenticationError",
            "message": REPORT.message,
        }
    ]
    assert api.requests == [("POST", "/api/v1/namespaces/prod/events", 201)]


def test_every_report_is_a_new_event(api: ApiServer) -> None:
    cluster(api).post(REPORT)
    cluster(api).post(REPORT)
    assert len(api.events) == 2


def test_a_long_message_is_cut(api: ApiServer) -> None:
    cluster(api).post(Report("GeneralError", "x" * 100_000))
    assert len(api.events[0]["message"]) == LONGEST_MESSAGE


def test_a_token_rotated_while_running_is_read_anew(api: ApiServer) -> None:
    where = cluster(api)
    where.post(REPORT)
    api.rotate()
    where.post(REPORT)
    assert [status for _, _, status in api.requests] == [201, 201]


def test_a_server_that_the_clusters_authority_did_not_sign_gets_no_token(api: ApiServer, tmp_path: Path) -> None:
    import certifi

    (api.service_account / "ca.crt").write_text(Path(certifi.where()).read_text())
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        cluster(api).post(REPORT)
    assert api.requests == []


def test_a_proxy_meant_for_upstream_is_not_asked(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    cluster(api).post(REPORT)
    assert len(api.events) == 1


def test_without_the_right_it_says_what_to_give(api: ApiServer) -> None:
    with pytest.raises(Unreportable, match=r"\(403\); give it a Role with create on events"):
        cluster(api, namespace="other").post(REPORT)
    assert api.events == []


def test_a_403_is_logged_once_and_the_log_has_the_reports(api: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "supervisor.report.reporter")
    api.status = 403
    sender = Reporter(settings.load(ENVIRON), cluster(api))
    sender.begin("key", "AuthenticationError", "one")
    sender.begin("quota", "APIQuotaExceededError", "two")
    sender.close(WAIT)
    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert (logging.ERROR, "AuthenticationError: one") in messages
    assert (logging.ERROR, "APIQuotaExceededError: two") in messages
    assert sum(level == logging.WARNING for level, _ in messages) == 1
    assert len(api.requests) == 2


def test_a_server_that_hangs_costs_the_caller_nothing(api: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    api.hangs.set()
    sender = Reporter(settings.load(ENVIRON), cluster(api))
    sender.begin("key", REPORT.reason, REPORT.message)  # returns at once: else the test would hang here
    until(lambda: "no Kubernetes Event can be made" in caplog.text, WAIT, "word that the server does not answer")
    api.hangs.clear()
    sender.begin("other", "GeneralError", "the next one goes through")
    until(lambda: api.events, WAIT, "event")
    sender.close(WAIT)


@pytest.mark.parametrize("status", [401, 500, 503, 504])
def test_a_server_that_fails_is_tried_again(api: ApiServer, status: int) -> None:
    api.status = status
    sender = Reporter(settings.load(ENVIRON), cluster(api))
    sender.begin("key", REPORT.reason, REPORT.message)
    until(lambda: api.requests, WAIT, "first try")
    api.status = None
    until(lambda: api.events or len(api.requests) >= 3, WAIT, "another try")
    sender.close(WAIT)
    assert len(api.requests) > 1


def test_an_outage_of_the_api_server_is_logged_and_the_next_report_is_sent(
    api: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    api.go_away()
    sender = Reporter(settings.load(ENVIRON), cluster(api))
    sender.begin("key", REPORT.reason, REPORT.message)
    until(lambda: "no Kubernetes Event can be made" in caplog.text, WAIT, "word of the outage")
    assert "AuthenticationError: OpenAI refused" in caplog.text
    api.come_back()
    sender.begin("other", "GeneralError", "two")
    until(lambda: api.events, WAIT, "event")
    sender.close(WAIT)


def test_a_configuration_error_is_reported_before_the_exit(api: ApiServer) -> None:
    assert report_once(cluster(api), "ConfigurationError", "API_KEY is missing")
    assert api.events[0]["reason"] == "ConfigurationError"
    api.hangs.set()
    assert not report_once(cluster(api), "ConfigurationError", "API_KEY is missing", time_limit=0.2)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/namespaces/prod/events", 403), ("DELETE", "/api/v1/namespaces/prod/events/e", 403),
        ("POST", "/api/v1/namespaces/other/events", 403),
        ("POST", "/apis/events.k8s.io/v1/namespaces/prod/events", 403),
        ("GET", "/api/v1/namespaces/prod/secrets", 403), ("PATCH", "/api/v1/namespaces/prod/events/e", 200),
        ("PUT", "/api/v1/namespaces/prod/events/e", 200), ("POST", "/api/v1/namespaces/prod/events", 422),
    ],
)  # fmt: skip
def test_the_test_double_has_the_real_servers_rules(api: ApiServer, method: str, path: str, status: int) -> None:
    token = (api.service_account / "token").read_text()
    assert api.answer(method, path, f"Bearer {token}", b"{}")[0] == status
    assert api.answer(method, path, "Bearer another", b"{}")[0] == 401
