"""A wheel that is built from the project's files holds every package, the page, and a version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

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
    assert code | {"WorkerNode.py", "supervisor/observability/page.html"} <= set(wheel.namelist())


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
