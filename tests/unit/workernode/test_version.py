"""The version is that of the build, and in a checkout its commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from workernode import version


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the code is in; its build noted a version."""
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(version, "__version__", "0.1.dev7+g0123456")
    return tmp_path


def test_an_installed_package_has_the_version_of_its_build(root: Path) -> None:
    assert version.version() == "0.1.dev7+g0123456"


def test_a_checkout_has_its_own_commit_and_not_that_of_the_build(root: Path) -> None:
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert version.version() == f"0.1.dev (commit {commit[:12]})"


def test_a_checkout_whose_commit_is_unknown_names_none(root: Path) -> None:
    (root / ".git").mkdir()  # git refuses it
    assert version.version() == "0.1.dev"
