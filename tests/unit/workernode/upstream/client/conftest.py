"""Upstream as a worker has it, without the pauses between calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.upstream import FakeUpstream
from tests.unit.workernode.upstream.client.asker import Asker, Client
from workernode.protocol import FaultKind
from workernode.upstream import client as client_module
from workernode.upstream import retry_policy


@pytest.fixture
def ask(upstream: FakeUpstream) -> Iterator[Asker]:
    with closing(Asker(upstream)) as asker:
        yield asker


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not waited for."""
    taken: list[float] = []

    def pause(self: Client, seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(Client, "pause", pause)
    # tenacity takes it from here when a Retrying is made, which for plain requests is at each of them.
    monkeypatch.setattr(client_module.time, "sleep", taken.append)  # type: ignore[attr-defined]
    # On a slow machine the calls themselves could use up the time for an upstream that is away.
    monkeypatch.setitem(retry_policy.LONGEST_RETRY_PAUSE, FaultKind.UNAVAILABLE, 60.0)
    return taken
