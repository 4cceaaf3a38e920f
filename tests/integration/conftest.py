"""The checkout in which start.sh and ai.sh run, the folder in which local.sh runs, and a development gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker
from devstack.gateway import Gateway
from tests.integration.checkout import Checkout
from tests.integration.gateway_clients import Topic
from tests.integration.local_sh_box import Box
from tests.support.upstream import FakeUpstream


@pytest.fixture
def checkout(tmp_path: Path, broker: Broker, upstream: FakeUpstream) -> Iterator[Checkout]:
    one = Checkout(tmp_path, broker.url, upstream)
    yield one
    for process in one.processes():
        process.kill()
    for run in one.runs:
        run.end()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A folder of this test's own with local.sh in it."""
    return Box(tmp_path)


@pytest.fixture
def topic() -> Topic:
    """What the development gateway publishes on."""
    return Topic()


@pytest.fixture
def server(topic: Topic) -> Iterator[Gateway]:
    """A development gateway of this test's own."""
    gateway = Gateway(topic.publish, port=0)
    gateway.start()
    yield gateway
    gateway.close()
