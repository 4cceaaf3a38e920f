"""A machine with few programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.devstack.broker.support import Program


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine where nothing is installed but a shell, tar and the like."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "tar", "gzip", "mkdir", "cp", "sleep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "home").mkdir()
    return {"PATH": str(programs), "HOME": str(tmp_path / "home")}


@pytest.fixture
def program(machine: dict[str, str]) -> Program:
    """Puts a shell script on the machine's PATH."""

    def put(name: str, script: str) -> None:
        path = Path(machine["PATH"], name)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put
