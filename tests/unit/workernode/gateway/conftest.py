"""Gateways with short pauses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workernode.gateway import Gateways, timing
from workernode.gateway import post as post_module


@pytest.fixture
def gateways() -> Iterator[Gateways]:
    made = Gateways(5.0, slots=8)
    yield made
    made.connections.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, and late answers are not offered for long."""
    monkeypatch.setattr(post_module, "_backoff", lambda state: 0.02)
    monkeypatch.setattr(timing, "SHORTEST_OFFER", 0.3)
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.0)
