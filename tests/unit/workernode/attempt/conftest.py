"""The bench, with short pauses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.attempt.bench import Bench
from workernode.gateway import post as post_module
from workernode.gateway import timing
from workernode.upstream import retry_policy


@pytest.fixture
def bench(upstream: FakeUpstream, gateway: FakeGateway) -> Iterator[Bench]:
    made = Bench(upstream, gateway)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries and offers are short."""
    monkeypatch.setattr(retry_policy, "_backoff", lambda state: 0.01)
    monkeypatch.setattr(post_module, "_backoff", lambda state: 0.02)
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.0)
    monkeypatch.setattr(timing, "REGISTERING_TIME", 0.2)
    monkeypatch.setattr(timing, "SHORTEST_OFFER", 0.3)
