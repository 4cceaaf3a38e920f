"""The fixtures that tests of the whole path use. Loaded by tests/conftest.py, which has the fixture `broker`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.platform import Broker, Platform
from tests.support.tls import server_context
from tests.support.upstream import FakeUpstream

API_KEY = "sk-canary-5b1f0c7e9d"  # what the node is given unless a test sets another one; must never be seen anywhere

Fake = TypeVar("Fake", FakeUpstream, FakeGateway)


def _watched(fake: Fake) -> Iterator[Fake]:
    """Yield a test double. After the test close it; the test fails if the node sent a wrong request."""
    yield fake
    print(fake.summary())  # pytest shows it, as all that is printed here, where the test failed
    fake.close()
    assert not fake.mistakes, fake.mistakes


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream of this test's own."""
    yield from _watched(FakeUpstream())


@pytest.fixture
def tls_upstream(tmp_path: Path) -> Iterator[tuple[FakeUpstream, Path]]:
    """A fake upstream behind a certificate that nobody trusts, and the authority file for who is to trust it."""
    context, authority = server_context(tmp_path)
    fake = FakeUpstream(context)
    yield fake, authority
    fake.close()
    assert not fake.mistakes, fake.mistakes


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """A fake gateway of this test's own."""
    yield from _watched(FakeGateway())


@pytest.fixture
def platform(broker: Broker, gateway: FakeGateway) -> Iterator[Platform]:
    """A model name, and the platform's side of it, of this test's own."""
    side = Platform(broker, gateway)
    yield side
    side.close()


@pytest.fixture
def node(platform: Platform, upstream: FakeUpstream, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A factory: `node(MAX_PROCESS_NUM=8)` starts a remote node between platform and upstream and gives it when ready.

    Variables are keyword arguments; None leaves a default out. `ready=False` does not wait. `args` are the command
    line's. All nodes are killed with all their descendants when the test ends; if it failed, their logs are shown.
    """
    upstream.models = [platform.model]
    nodes: list[Node] = []

    def start(ready: bool = True, args: tuple[str, ...] = (), **variables: object) -> Node:
        defaults: dict[str, object] = {
            "NODE_TYPE": "remote",
            "MODEL_NAME": platform.model,
            "API_URL": upstream.api_url,
            "API_KEY": API_KEY,
            "PULSAR_URL": platform.broker.url,
            "RES_TOPIC_NAME": platform.res_topic,
            "WORKER_PROCESSES": 2,
        }
        one = Node({**defaults, **variables}, tmp_path, args)
        nodes.append(one)
        return one.wait_ready() if ready else one

    yield start
    for one in nodes:
        print(one.tail())
        one.close()
