"""Benches whose upstream is a model that breaks streams off, with short pauses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.continuing import ContinuingModel
from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.attempt.bench import Bench
from tests.unit.workernode.relay.streams import STYLES, Make
from workernode import relay
from workernode.gateway import timing
from workernode.upstream import retry_policy


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_policy, "_backoff", lambda state: 0.01)
    monkeypatch.setattr(relay, "PAUSE", 0.01)
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.0)


@pytest.fixture
def make(upstream: FakeUpstream, gateway: FakeGateway) -> Iterator[Make]:
    """A function that makes a bench whose upstream is a given model."""
    benches: list[Bench] = []

    def one(model: ContinuingModel, style: str | None = None, **variables: Any) -> Bench:
        path = "/beta/chat/completions" if model.server == "deepseek" else "/v1"
        bench = Bench(
            upstream, gateway, STREAM_RESUME=style or STYLES[model.server], API_URL=upstream.url + path, **variables
        )  # fmt: skip
        upstream.script(model)
        benches.append(bench)
        return bench

    yield one
    for bench in benches:
        bench.close()
