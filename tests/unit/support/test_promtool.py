"""tests/support/promtool.py: a missing program is a failure, not a skipped test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import promtool


def test_without_promtool_and_apt_the_test_fails_and_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(promtool, "CACHE", tmp_path / "promtool")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="install Prometheus"):
        promtool.find_promtool()
