"""deploy/helm: the chart renders for seven kinds of installation, and what it renders fits the schemas and the node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from supervisor.broker import Topics
from tests.support.crds import CRDS
from tests.support.helm import CHART, find_helm, one, render, run
from tests.support.paths import ROOT
from workernode.settings import VARIABLES, load

REMOTE = {"config": {"MODEL_NAME": "gpt-4o-mini", "API_URL": "https://api.openai.com"}, "secret": {"API_KEY": "sk-1"}}
INSTALLATIONS: dict[str, dict[str, Any]] = {
    "remote": REMOTE,
    "existing secret and AIModel": {**REMOTE, "secret": {}, "existingSecret": "keys", "aiModelName": "gpt"},
    "secrets as files": {**REMOTE, "secret": {}, "existingSecret": "keys", "secretFiles": ["API_KEY", "PULSAR_TOKEN"]},
    "autoscaled": {**REMOTE, "autoscaling": {"enabled": True, "maxReplicas": 4, "triggerAuthentication": "token"}},
    "scale to zero, monitored": {
        **REMOTE,
        "autoscaling": {"enabled": True, "minReplicas": 0},
        "monitoring": {"podMonitor": True, "rules": True},
        "image": {"repository": "registry.example.com/workernode", "tag": "1.2.3", "pullSecrets": ["registry"]},
    },
    "cluster, authority, proxy": {
        "config": {
            **REMOTE["config"],
            "PULSAR_URL": "pulsar+ssl://pulsar-a.example.com:6651,pulsar-b.example.com:6651",
            "PULSAR_NAMESPACE": "tenant/namespace",
            "PULSAR_TLS_CA": "/run/authorities/ca.pem",
            "UPSTREAM_CA": "/run/authorities/ca.pem",
            "HTTPS_PROXY": "http://proxy.example.com:3128",
            "NO_PROXY": ".example.com,10.0.0.0/8",
        },
        "secret": {"API_KEY": "sk-1", "PULSAR_TOKEN": "token"},
        "authorities": "company-authorities",
        "subscription": {"create": True},
    },
    "local model": {
        "config": {"NODE_TYPE": "local", "MODEL_NAME": "gemma", "LOCAL_PARALLEL": 4, "MAX_PROCESS_NUM": 4},
        "subscription": {"create": True},
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
}


@pytest.fixture(scope="module")
def helm() -> str:
    return find_helm()


@pytest.mark.parametrize("values", INSTALLATIONS.values(), ids=INSTALLATIONS.keys())
def test_the_linter_finds_nothing(helm: str, tmp_path: Path, values: dict[str, Any]) -> None:
    done = run(helm, tmp_path, ["lint", "--strict", "--kube-version", "1.30.0"], values)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", INSTALLATIONS.values(), ids=INSTALLATIONS.keys())
def test_every_object_fits_its_schema(helm: str, tmp_path: Path, values: dict[str, Any]) -> None:
    for each in render(helm, tmp_path, values):
        if each["kind"] in CRDS:
            jsonschema.validate(each, CRDS[each["kind"]])
        else:
            kubernetes_validate.validate(each, "1.30.0", strict=True)


@pytest.mark.parametrize("values", INSTALLATIONS.values(), ids=INSTALLATIONS.keys())
def test_the_node_accepts_what_its_pod_is_given(helm: str, tmp_path: Path, values: dict[str, Any]) -> None:
    objects = render(helm, tmp_path, values)
    given = dict(one(objects, "ConfigMap")["data"])
    if values.get("secret"):
        given |= one(objects, "Secret")["stringData"]
    elif values.get("existingSecret"):
        given["API_KEY"] = "sk-of-the-existing-secret"
    assert set(given) <= set(VARIABLES)
    settings = load(given)
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert settings.status_addr is not None
    assert [port["containerPort"] for port in pod["containers"][0]["ports"]] == [settings.status_addr.port]
    assert pod["terminationGracePeriodSeconds"] >= settings.drain_timeout + 22


def test_no_secret_is_in_the_configmap_or_the_pod(helm: str, tmp_path: Path) -> None:
    objects = render(helm, tmp_path, {**REMOTE, "secret": {"API_KEY": "sk-canary"}})
    assert "sk-canary" not in json.dumps([each for each in objects if each["kind"] != "Secret"])


def test_secrets_as_files_are_those_that_the_node_reads(helm: str, tmp_path: Path) -> None:
    pod = one(render(helm, tmp_path, INSTALLATIONS["secrets as files"]), "Deployment")["spec"]["template"]["spec"]
    environ = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    (volume,) = [each["secret"] for each in pod["volumes"] if each["name"] == "secrets"]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "secrets"]
    assert volume["secretName"] == "keys"
    for name in ("API_KEY", "PULSAR_TOKEN"):
        assert environ[name] == "", "the variable of the Secret itself would hide the file"
        assert environ[f"{name}_FILE"] in {f"{mount['mountPath']}/{item['path']}" for item in volume["items"]}


FROM_SECRET = {"secret": {"API_KEY": "sk-1", "RECORD_SALT": "salt-of-16-letters"}}


@pytest.mark.parametrize(
    ("values", "mounted"),
    [
        pytest.param(FROM_SECRET, ["API_KEY"], id="values"),
        pytest.param({"existingSecret": "keys", "secret": {}}, ["API_KEY"], id="existing secret"),
        pytest.param({"secretFiles": []}, [], id="none wanted"),
        pytest.param({"config": {"NODE_TYPE": "local", "MODEL_NAME": "m"}, "secret": {}}, [], id="local"),
    ],
)
def test_secrets_are_files_if_nothing_else_is_said(
    helm: str, tmp_path: Path, values: dict[str, Any], mounted: list[str]
) -> None:
    pod = one(render(helm, tmp_path, {**REMOTE, **values}), "Deployment")["spec"]["template"]["spec"]
    found = [item["key"] for each in pod["volumes"] if each["name"] == "secrets" for item in each["secret"]["items"]]
    assert found == mounted


def test_the_pods_have_the_files_of_authorities_that_their_settings_name(helm: str, tmp_path: Path) -> None:
    objects = render(helm, tmp_path, INSTALLATIONS["cluster, authority, proxy"])
    folder = Path(one(objects, "ConfigMap")["data"]["PULSAR_TLS_CA"]).parent
    for each in objects:
        if each["kind"] in ("Deployment", "Job"):
            pod = each["spec"]["template"]["spec"]
            (volume,) = [
                one["name"] for one in pod["volumes"] if one.get("configMap", {}).get("name") == "company-authorities"
            ]
            assert {"name": volume, "mountPath": str(folder), "readOnly": True} in pod["containers"][0]["volumeMounts"]


def test_a_new_secret_makes_new_pods(helm: str, tmp_path: Path) -> None:
    def checksum(key: str) -> str:
        deployment = one(render(helm, tmp_path, {**REMOTE, "secret": {"API_KEY": key}}), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert checksum("sk-1") != checksum("sk-2")


def test_scale_to_zero_makes_the_subscription_that_the_autoscaler_counts(helm: str, tmp_path: Path) -> None:
    objects = render(helm, tmp_path, INSTALLATIONS["scale to zero, monitored"])
    scaled = one(objects, "ScaledObject")["spec"]
    settings = load({**one(objects, "ConfigMap")["data"], "API_KEY": "sk-1"})
    topics = Topics.of(settings)
    assert scaled["minReplicaCount"] == 0
    assert scaled["triggers"][0]["metadata"]["topic"] == topics.tasks
    assert scaled["triggers"][0]["metadata"]["subscription"] == topics.subscription
    job = one(objects, "Job", "release-subscribe")
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["--subscribe"]
    assert one(objects, "ConfigMap", "release-subscribe")["data"] == one(objects, "ConfigMap")["data"]


def test_without_an_aimodel_the_pod_gets_no_right(helm: str, tmp_path: Path) -> None:
    kinds = {each["kind"] for each in render(helm, tmp_path, REMOTE)}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    objects = render(helm, tmp_path, INSTALLATIONS["existing secret and AIModel"])
    assert one(objects, "Role", "release-events")["rules"] == [
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]}
    ]


def test_alerts_name_metrics_that_the_node_has() -> None:
    rules = yaml.safe_load((CHART / "rules.yaml").read_text())
    table = (ROOT / "docs/metrics.md").read_text()
    for group in rules["groups"]:
        for rule in group["rules"]:
            words = rule["expr"].replace("(", " ").replace("[", " ").split()
            names = [word for word in words if word.startswith("workernode_")]
            assert names
            assert all(f"`{name}`" in table for name in names)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "MODEL_NAME"),
        ({**REMOTE, "config": {**REMOTE["config"], "API_KEY": "sk-1"}}, "API_KEY"),
        ({**REMOTE, "config": {**REMOTE["config"], "PULSAR_URL": "http://broker"}}, "PULSAR_URL"),
        ({**REMOTE, "existingSecret": "keys"}, "set one of them"),
        ({**REMOTE, "autoscaling": {"minReplica": 0}}, "minReplica"),
    ],
    ids=["no model", "key in config", "wrong broker address", "two secrets", "misspelt value"],
)
def test_wrong_values_are_refused_with_their_name(
    helm: str, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    done = run(helm, tmp_path, ["template", "release", "--kube-version", "1.30.0"], values)
    assert done.returncode != 0
    assert message in done.stderr
