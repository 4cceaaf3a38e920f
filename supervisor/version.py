"""Which version this is, and of which commit, where that is known."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from workernode import __version__

HERE = Path(__file__).resolve().parent
BUILD_FILE = "commit.txt"  # beside this file: written by the build of an image, where there is no .git
SHOWN_DIGITS = 12


def version() -> str:
    """Return "0.1.0 (commit 0123456789ab)", or "0.1.0" where the commit is not known."""
    known = commit()
    return f"{__version__} (commit {known})" if known else __version__


def commit() -> str:
    """Return the commit's first digits: what the build noted, else the checkout's, else pip's; "" without any."""
    return (_noted() or _checked_out(HERE.parent / ".git") or _installed())[:SHOWN_DIGITS]


def _noted() -> str:
    return _read(HERE / BUILD_FILE)


def _checked_out(git: Path) -> str:
    """The commit at HEAD, from git's own files: no git is needed, and no right to the folder but to read it."""
    head = _read(git / "HEAD")
    reference = head.removeprefix("ref: ")
    if reference == head:
        return head
    if loose := _read(git / reference):
        return loose
    packed = (line.split(" ", 1) for line in _read(git / "packed-refs").splitlines() if " " in line)
    return next((digits for digits, name in packed if name == reference), "")


def _installed() -> str:
    """The commit that pip installed from, if it did install from a repository (PEP 610)."""
    try:
        origin = json.loads(metadata.distribution("workernode").read_text("direct_url.json") or "{}")
        return str(origin["vcs_info"]["commit_id"])
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return ""
