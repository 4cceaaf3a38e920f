"""Internal errors of the node still yield a decision."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.unit.workernode.attempt.bench import Bench, Progress, both, record_of
from workernode import record
from workernode.gateway import Gateways
from workernode.protocol import Decision, Outcome
from workernode.upstream import Upstream


@both
def test_an_internal_error_before_anything_was_sent_naks_the_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    monkeypatch.setattr(Upstream, "_ask", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR):
        outcome, answer = bench.run(stream=stream)
    assert (outcome.decision, outcome.status) == (Decision.NAK, "upstream_trouble")
    assert not answer.posts + answer.frames  # type: ignore[operator]
    assert "ZeroDivisionError" in caplog.text
    assert record_of(outcome)["outcome"]["error"]["code"] == "internal_error"


def test_an_internal_error_in_the_middle_of_a_stream_ends_the_stream(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "count_tokens", lambda *_: 1 / 0)
    outcome, answer = bench.run(stream=True)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "broken")
    assert answer.wait().error is not None
    assert answer.faults == []
    bench.up.wait_for_inflight(0)


def test_an_internal_error_after_the_end_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workernode.upstream.streamed_answer.StreamedAnswer.finish", lambda _: 1 / 0)
    outcome, answer = bench.run(stream=True)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "answered")
    assert answer.wait().faults == []


@both
@pytest.mark.parametrize("redeliveries", [0, 3])
@pytest.mark.parametrize("changes", [{}, {"data": 5}], ids=["task", "not_a_task"])
def test_an_internal_error_on_the_way_back_yields_a_decision(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stream: bool, redeliveries: int, changes: dict[str, Any]
) -> None:
    """A slot whose thread dies would never be seen again, and its message would never be acked."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an internal error")

    monkeypatch.setattr(Gateways, "post", fail)
    monkeypatch.setattr(Gateways, "stream", fail)
    outcome, _ = bench.run(stream=stream, redeliveries=redeliveries, changes=changes)
    assert isinstance(outcome, Outcome)
    record_of(outcome)


@both
def test_a_record_that_cannot_be_made_is_replaced_by_one_without_the_tasks_details(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The decision stands: the client has its answer."""
    monkeypatch.setattr(record, "request_of", lambda *_, **__: 1 / 0)
    outcome, answer = bench.run(stream=stream)
    assert answer.wait().faults == []
    assert (outcome.decision, outcome.status) == (Decision.ACK, "answered")
    assert record_of(outcome)["request"]["messages"] is None
