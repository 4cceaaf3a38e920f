"""A pool whose workers take jobs for each test."""

from __future__ import annotations

import pytest

from tests.unit.supervisor.workers.harness import Harness


@pytest.fixture
def harness() -> Harness:
    one = Harness()
    one.pool.start()
    one.ready()
    return one
