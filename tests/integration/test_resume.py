"""Streams that go on, for real: answers of the embedded model that are cut.

The whole property and the long runs are made by hand: resume_property.py, resume_runs.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.resume_property import CutModel, cut_everywhere
from tests.integration.test_embedded import Embedded
from tests.support.gateway import FakeGateway
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.attempt.bench import Bench


@pytest.fixture
def model(tmp_path: Path) -> Iterator[CutModel]:
    server = Embedded(tmp_path / "log", "--server", "--parallel", "1", "--ctx-size", "2048")
    server.wait_output("serving gemma3-270m at")
    yield CutModel(f"http://127.0.0.1:{server.port}")
    server.close()


@pytest.mark.timeout(300)  # a real model on cores that other tests share
def test_the_text_of_a_cut_stream_is_the_unbroken_one_wherever_it_was_cut(
    model: CutModel, upstream: FakeUpstream, gateway: FakeGateway
) -> None:
    upstream.script(model)
    upstream.pages = model.pages()
    bench = Bench(upstream, gateway, STREAM_RESUME="llamacpp")
    cuts = list(cut_everywhere(bench, model, "What is 12 times 12?", 4, is_cold=True))
    bench.close()
    assert len(cuts) > 2
    assert [cut for cut in cuts if not cut.is_same] == []
