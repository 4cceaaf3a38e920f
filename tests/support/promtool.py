"""Finds promtool for the tests of the alerts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workernode" / "promtool" / "promtool"


def find_promtool() -> str:
    """Return the path of promtool: from PATH or from the cache. It is not built here, which takes many minutes.

    Without promtool the test is skipped, with what to install as the reason.
    """
    if found := shutil.which("promtool"):
        return found
    if CACHE.exists():
        return str(CACHE)
    pytest.skip("promtool is not on PATH: the alerts are not evaluated (Debian: apt install prometheus)")
