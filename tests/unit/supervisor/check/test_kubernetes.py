"""`--check`: the line about the right to create Events in Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.check import kubernetes as check_kubernetes
from supervisor.check.findings import Finding, Mark
from tests.support.apiserver import ApiServer
from tests.support.check import context, one_line


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as api_server:
        for name, value in api_server.environ.items():
            monkeypatch.setenv(name, value)
        yield api_server


def kubernetes(cluster: ApiServer, namespace: str = "prod") -> Finding:
    variables = {"AIMODEL_NAME": "m", "AIMODEL_NAMESPACE": namespace}
    (found,) = check_kubernetes.check_events(context(**variables), cluster.service_account)
    return found


def test_the_right_to_create_events_is_tried_with_a_dry_run(cluster: ApiServer) -> None:
    found = kubernetes(cluster)
    assert (found.mark, found.text) == (Mark.OK, "may report on AIModel m in namespace prod")
    assert cluster.events == []
    assert [path for _, path, _ in cluster.requests] == ["/api/v1/namespaces/prod/events?dryRun=All"]


def test_a_missing_right_is_a_fault(cluster: ApiServer) -> None:
    found = kubernetes(cluster, namespace="other")
    assert found.mark is Mark.FAULT
    assert one_line(found).endswith("give it a Role with create on events, as in deploy/kubernetes/account.yaml")


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "refuses the account's token"), (404, "no namespace prod"), (500, "answers 500")]
)
def test_other_answers_of_the_api_server(cluster: ApiServer, status: int, expected: str) -> None:
    cluster.status = status
    assert expected in kubernetes(cluster).text


def test_an_unreachable_api_server_is_a_fault(cluster: ApiServer) -> None:
    cluster.go_away()
    assert "cannot be reached: the connection failed" in kubernetes(cluster).text
    cluster.come_back()


def test_an_account_without_a_token_is_a_fault(cluster: ApiServer) -> None:
    (cluster.service_account / "token").unlink()
    assert "service account cannot be used" in kubernetes(cluster).text


def test_without_a_cluster_reports_go_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for variables in ({}, {"AIMODEL_NAME": "m"}):
        (found,) = check_kubernetes.check_events(context(**variables))
        assert (found.mark, found.text.split(",")[0]) == (Mark.OK, "reports go to the log only")
