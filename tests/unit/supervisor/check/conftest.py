"""An API's list of models for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.check import Api


@pytest.fixture
def api() -> Iterator[Api]:
    one = Api()
    yield one
    one.close()
