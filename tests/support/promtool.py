"""Finds promtool, or fetches it from Debian, for the tests of the alerts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workernode" / "promtool"


def find_promtool() -> str:
    """Return the path of promtool: from PATH, from the cache, or out of Debian's package `prometheus` (19 MB).

    The package is not installed, so that no right is needed. To build promtool with Go takes many minutes. Where there
    is neither promtool nor apt, the test fails and names what to install.
    """
    if found := shutil.which("promtool"):
        return found
    binary = CACHE / "promtool"
    if not binary.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            pytest.fail("neither promtool nor apt-get is on PATH: install Prometheus, whose promtool tests the alerts")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _fetch(Path(folder)).rename(binary)
    return str(binary)


def _fetch(folder: Path) -> Path:
    """Download the package with lists of packages of its own, and return the program in it."""
    lists, archives, unpacked = folder / "lists", folder / "archives", folder / "unpacked"
    for made in (lists / "partial", archives / "archives" / "partial", unpacked):
        made.mkdir(parents=True)
    options = ["-qq", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={archives}"]
    for command in (["update"], ["download", "prometheus"]):
        subprocess.run(["apt-get", *options, *command], cwd=folder, check=True)
    [package] = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
    return unpacked / "usr" / "bin" / "promtool"
