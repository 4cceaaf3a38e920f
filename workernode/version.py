"""The version for people: of an installed package what the build wrote, of a checkout its commit."""

from __future__ import annotations

from pathlib import Path

from workernode import __version__

ROOT = Path(__file__).resolve().parents[1]
GIT_TIMEOUT_S = 5.0


def version() -> str:
    """Return the version and, where it is known, the commit: "0.1.dev7+g0123456" or "0.1.dev (commit 0123456789ab)".

    In a checkout the files may have changed since the package was installed, so there the commit is asked of git.
    """
    if not (ROOT / ".git").exists():
        return str(__version__)
    release = __version__.partition(".dev")[0]
    commit = _commit()
    return f"{release}.dev (commit {commit})" if commit else f"{release}.dev"


def _commit() -> str:
    """Return the first digits of the checkout's commit; "" if git is missing or refuses."""
    import subprocess  # only here: --version and --check need it, a node does not

    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
