"""A folder in which local.sh runs with a llamafile that is a stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.paths import ROOT

PATIENCE = 60.0  # seconds; a bound for a broken run
# Prints its arguments, and stays until a signal where its environment asks for it.
LLAMAFILE = """#!/bin/sh
echo "pid $$"
for word in "$@"; do echo "arg $word"; done
case "$*" in *--api-key-file*) echo "key $(cat /dev/fd/9)" ;; esac
if [ -n "${STAY:-}" ]; then exec sleep 1000; fi
"""
FLAGS = ["--server", "--host", "127.0.0.1", "--port", "8082", "--parallel", "4", "--ctx-size", "16384"]


class Box:
    """A folder with local.sh in it, whose path has a space, and what is needed to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "the box"
        self.folder.mkdir()
        self.script = Path(shutil.copy2(ROOT / "local.sh", self.folder))
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}

    def llamafile(self, name: str = "model.llamafile", text: str = LLAMAFILE, mode: int = 0o755) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def start(self, cwd: Path = Path("/"), **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.script],
            cwd=cwd,
            env=self.env | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, cwd: Path = Path("/"), **variables: str) -> tuple[int, list[str], str]:
        """Exit code, the llamafile's output line by line, local.sh's output."""
        with self.start(cwd, **variables) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output.splitlines(), errors


def arguments(output: list[str]) -> list[str]:
    return [line.removeprefix("arg ") for line in output if line.startswith("arg ")]
