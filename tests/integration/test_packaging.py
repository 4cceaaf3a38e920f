"""A wheel that is built from the project's files holds every package, the page, local.sh, and a version, and works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.paths import ROOT
from tests.support.platform import Platform

PACKAGES = ("workernode", "supervisor", "devstack")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "WorkerNode.py")  # what the Dockerfile copies, too


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a copy without .git, as the image's build makes it."""
    folder = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "_version.py"))
    for name in FILES:
        shutil.copy2(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet", "-w", "dist", "."]
    subprocess.run(command, cwd=folder, check=True)
    [path] = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_module_and_the_page_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    code = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    files = {"WorkerNode.py", "supervisor/observability/page.html", "devstack/local.sh"}
    assert code | files <= set(wheel.namelist())
    assert wheel.getinfo("devstack/local.sh").external_attr >> 16 & 0o100  # may be executed


@pytest.mark.timeout(420)  # a real model on cores that other tests share
def test_a_local_node_from_the_wheel_answers_a_task_in_an_empty_folder(
    wheel: zipfile.ZipFile, platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    """The packages that the wheel needs, the extra `local` among them, are those of the tests' own environment."""
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*pip, str(wheel.filename)], check=True)
    variables = {
        "NODE_TYPE": "local", "MODEL_NAME": platform.model, "PULSAR_URL": platform.broker.url, "PYTHONPATH": site,
        "RES_TOPIC_NAME": platform.res_topic, "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME"),
    }  # fmt: skip
    with Node(variables, folder, command=[sys.executable, str(site / "bin" / "workernode")]) as node:
        node.wait_ready(300)
        assert any(f"{site}/devstack/local.sh" in line for line in node.log_lines)
        id = platform.ask("Say one word.", max_tokens=4)
        gateway.wait_all([id], 300)
        assert gateway.faults([id]) == []
    assert list(folder.iterdir()) == []


def test_the_wheel_knows_its_version(wheel: zipfile.ZipFile) -> None:
    assert re.search(r"version = '0\.1\.dev0'", wheel.read("workernode/_version.py").decode())


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in folders if not Path(folder, "__init__.py").exists()] == []


def test_the_version_is_printed_where_no_package_is_installed() -> None:
    command = [sys.executable, "-S", "-s", "WorkerNode.py", "--version"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("WorkerNode 0.1")


def test_without_packages_the_node_says_how_to_install_them() -> None:
    command = [sys.executable, "-S", "-s", "WorkerNode.py"]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"The Python package \w+ is not installed\. Run: python3 -m pip install -e \.\n", done.stderr)
