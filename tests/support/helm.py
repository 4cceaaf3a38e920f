"""Finds Helm, or builds it with Go, for the tests of the chart."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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
