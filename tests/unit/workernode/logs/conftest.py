"""Logs for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.workernode.logs.log import Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "log")
    yield made
    made.close()


@pytest.fixture
def text_log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "log", as_json=False)
    yield made
    made.close()
