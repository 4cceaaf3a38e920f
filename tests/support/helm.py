"""Finds Helm, or builds it with Go, and renders the chart with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

CHART = ROOT / "deploy/helm/workernode"
VERSION = "v3.16.4"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workernode" / "helm" / VERSION


def find_helm() -> str:
    """Return the path of a Helm 3: from PATH, from the cache, or built into the cache with Go (about a minute).

    Without Helm and Go the test is skipped, with what to install as the reason.
    """
    if found := shutil.which("helm"):
        return found
    binary = CACHE / "helm"
    if not binary.exists():
        go = shutil.which("go")
        if go is None:
            pytest.skip("neither helm nor go on PATH: the Helm chart is not tried here (install Helm 3, or Go)")
        CACHE.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "GOBIN": str(CACHE), "GOFLAGS": "-mod=mod"}
        subprocess.run([go, "install", f"helm.sh/helm/v3/cmd/helm@{VERSION}"], env=environ, check=True)
    return str(binary)


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
