"""The checkout in which start.sh and ai.sh run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker
from tests.integration.checkout import Checkout
from tests.support.upstream import FakeUpstream


@pytest.fixture
def checkout(tmp_path: Path, broker: Broker, upstream: FakeUpstream) -> Iterator[Checkout]:
    one = Checkout(tmp_path, broker.url, upstream)
    yield one
    for process in one.processes():
        process.kill()
    for run in one.runs:
        run.end()
