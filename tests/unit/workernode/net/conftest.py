"""A pool of connections to the fake upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.upstream import FakeUpstream
from tests.unit.workernode.net.exchanges import pool_of
from workernode.net.http_client import Pool


@pytest.fixture
def pool(upstream: FakeUpstream) -> Iterator[Pool]:
    made = pool_of(upstream.port)
    yield made
    made.close()
