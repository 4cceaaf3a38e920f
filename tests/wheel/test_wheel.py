"""A release of a tagged commit, installed into an empty environment, works in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.fixtures import API_KEY
from tests.support.node import Node
from tests.support.paths import ROOT
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream

TAG = "v7.8.9"  # a version that no release has
BUILD_LIMIT = 900  # seconds: it downloads its tools and what the wheel needs

pytestmark = pytest.mark.timeout(BUILD_LIMIT + 120)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release of the last commit."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("release")
    for command in (["clone", "--quiet", str(ROOT), str(clone)], ["-C", str(clone), "tag", TAG]):
        subprocess.run(["git", *command], check=True)
    subprocess.run([str(clone / "deploy" / "release.sh"), str(out)], check=True, timeout=BUILD_LIMIT)
    return out


def install(release: Path, folder: Path, extras: str = "") -> Path:
    """Make an environment in the folder that holds the wheel, what it needs, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    wheel = release / f"workernode-{TAG[1:]}-py3-none-any.whl"
    subprocess.run([*pip, f"{wheel}{extras}"], check=True, timeout=BUILD_LIMIT)
    return folder


@pytest.fixture(scope="module")
def environment(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without any extra."""
    return install(release, tmp_path_factory.mktemp("environment"))


def test_a_release_has_the_version_of_its_tag_and_its_sdist_and_wheel_hold_all_code(release: Path) -> None:
    version = TAG[1:]
    assert sorted(path.name for path in release.iterdir()) == [
        "LICENCES.md", f"workernode-{version}-py3-none-any.whl", f"workernode-{version}.cdx.json",
        f"workernode-{version}.tar.gz",
    ]  # fmt: skip
    packages = ("workernode", "supervisor", "devstack")
    code = {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}
    wanted = {*code, "WorkerNode.py", "supervisor/observability/page.html", "devstack/local.sh"}
    with zipfile.ZipFile(release / f"workernode-{version}-py3-none-any.whl") as wheel:
        assert wanted <= set(wheel.namelist())
    with tarfile.open(release / f"workernode-{version}.tar.gz") as sdist:
        assert wanted <= {name.partition("/")[2] for name in sdist.getnames()}


def test_the_sbom_and_the_table_of_licences_name_everything_that_is_installed(release: Path, environment: Path) -> None:
    sbom = json.loads((release / f"workernode-{TAG[1:]}.cdx.json").read_text(encoding="utf-8"))
    assert sbom["bomFormat"] == "CycloneDX"
    named = {each["name"].lower().replace("_", "-") for each in sbom["components"]}
    installed = {path.name.partition("-")[0].lower().replace("_", "-") for path in environment.rglob("*.dist-info")}
    assert installed == named
    assert {"workernode", "pulsar-client", "msgspec"} <= named
    rows = (release / "LICENCES.md").read_text(encoding="utf-8").splitlines()[2:]
    assert len(rows) == len(named)
    assert [row for row in rows if "UNKNOWN" in row] == []


def test_a_node_from_the_wheel_passes_its_check_and_serves_tasks_in_an_empty_folder(
    environment: Path, platform: Platform, upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.models = [platform.model]
    variables = {
        "NODE_TYPE": "remote", "MODEL_NAME": platform.model, "API_URL": upstream.api_url, "API_KEY": API_KEY,
        "PULSAR_URL": platform.broker.url, "RES_TOPIC_NAME": platform.res_topic, "WORKER_PROCESSES": 2,
    }  # fmt: skip
    command = [str(environment / "bin" / "workernode")]
    with Node(variables, tmp_path, args=("--check", "--json"), command=command) as check:
        code = check.wait_exit(120)
        assert code == 0, check.tail()
    with Node(variables, tmp_path, command=command) as node:
        node.wait_ready(60)
        for stream in (False, True):
            answer = platform.ask_and_wait("hello", stream, timeout=60)
            assert answer.faults == []
        assert len(platform.wait_records(lambda record: record["node"]["version"] == TAG[1:], 2)) == 2
        node.sigterm()
        assert node.wait_exit() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_local_node_from_the_wheel_passes_its_check_and_serves_a_task_with_the_embedded_model_in_an_empty_folder(
    release: Path, platform: Platform, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = install(release, tmp_path_factory.mktemp("environment-local"), "[local]")
    variables = {
        "NODE_TYPE": "local", "MODEL_NAME": platform.model, "PULSAR_URL": platform.broker.url,
        "RES_TOPIC_NAME": platform.res_topic, "WORKER_PROCESSES": 1, "LOCAL_CTX": 4096,
    }  # fmt: skip
    command = [str(environment / "bin" / "workernode")]
    with Node(variables, tmp_path, args=("--check", "--json"), command=command) as check:
        code = check.wait_exit(120)
        assert code == 0, check.tail()
    with Node(variables, tmp_path, command=command) as node:
        node.wait_ready(BUILD_LIMIT)
        answer = platform.ask_and_wait("Say hello.", True, timeout=BUILD_LIMIT, max_tokens=8)
        assert (answer.faults, answer.error) == ([], None)
        assert answer.text
        node.sigterm()
        assert node.wait_exit() == 0
    assert list(tmp_path.iterdir()) == []
