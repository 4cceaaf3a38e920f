"""What the whole node must know: failed calls, rate limits, and the holds that follow."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable

import pytest

from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.workernode.upstream.client.asker import LONG, Asker
from workernode.protocol import FaultKind, Hold
from workernode.upstream import client as client_module
from workernode.upstream.retry_policy import ATTEMPTS


@pytest.mark.parametrize("stream", [False, True])
def test_each_failed_call_is_reported_with_its_task_and_its_time(ask: Asker, stream: bool) -> None:
    before = time.monotonic()
    ask.fault({"status": 500}, stream=stream)  # for a 503 the time of all attempts counts, too
    assert len(ask.failed) == ATTEMPTS
    assert {(seen.request_id, seen.fault.http_status) for seen in ask.failed} == {("id-1", 500)}
    assert before < ask.failed[0].asked < ask.failed[-1].asked


def test_a_refusal_is_not_reported_as_a_failed_call(ask: Asker) -> None:
    ask.fault({"status": 401, "err_type": "invalid_request_error"})
    ask.fault({"status": 400})
    assert ask.failed == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_call_is_not_repeated_while_upstream_is_away(ask: Asker, stream: bool) -> None:
    ask.upstream.set_hold(Hold(0.0, no_retries=True))
    ask.fault({"status": 503}, stream=stream)
    assert len(ask.failed) == 1


def test_a_stream_that_has_begun_is_reported_only_where_a_hold_asks_for_it(ask: Asker) -> None:
    ask.stream()
    assert ask.begun == []
    before = time.monotonic()
    ask.upstream.set_hold(Hold(0.0, reports_begun=True))
    ask.stream()
    assert before < ask.begun[0].asked < time.monotonic()
    ask.complete()
    ask.fault({"status": 503}, stream=True)
    ask.fault({"raw": 'data: {"error": {"message": "no", "code": 500}}\n\n'}, stream=True)
    assert len(ask.begun) == 1


def test_limit_headers_are_reported_to_the_supervisor(ask: Asker) -> None:
    ask.complete({"headers": {"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "3"}})
    ask.fault({"status": 429, "err_type": "insufficient_quota"})
    good, quota = ask.seen
    assert (good.kind, good.limit_requests, good.remaining_requests) == (None, 10, 3)
    assert quota.kind is FaultKind.QUOTA


def test_an_answer_without_limit_headers_gives_no_report(ask: Asker) -> None:
    ask.complete()
    assert ask.seen == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> Callable[[], float]:
    """A clock that a pause moves on."""
    real = time.monotonic

    def now() -> float:
        return real() + sum(pauses)

    monkeypatch.setattr(client_module.time, "monotonic", now)  # type: ignore[attr-defined]
    return now


def test_a_hold_is_waited_for(ask: Asker, pauses: list[float], clock: Callable[[], float]) -> None:
    ask.upstream.set_hold(Hold(clock() + 5))
    question = ask.question({}, False, LONG)
    ask.upstream.complete(question, ask.asked)
    assert sum(pauses) == pytest.approx(5, abs=1)


def test_those_who_waited_for_a_hold_do_not_come_all_at_once(
    ask: Asker, pauses: list[float], clock: Callable[[], float]
) -> None:
    for _ in range(5):
        ask.upstream.set_hold(Hold(clock() + 1, spread=10))
        ask.upstream.complete(ask.question({}, False, 1000), ask.asked)
    assert len({round(pause, 3) for pause in pauses}) == 5
    assert all(0 < pause <= 11 for pause in pauses)


def test_a_hold_that_is_made_longer_is_waited_for_again(
    ask: Asker, upstream: FakeUpstream, pauses: list[float], clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def longer(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            ask.upstream.set_hold(Hold(clock() + 3))

    monkeypatch.setattr("workernode.upstream.client.time.sleep", longer)
    ask.upstream.set_hold(Hold(clock() + 1))
    ask.upstream.complete(ask.question({}, False, 1000), ask.asked)
    assert len(pauses) == 2
    assert len(upstream.requests) == 1


def test_a_hold_beyond_the_tasks_time_sends_it_back(ask: Asker, upstream: FakeUpstream, pauses: list[float]) -> None:
    ask.upstream.set_hold(Hold(time.monotonic() + 60))
    fault = ask.fault({}, time_s=5)
    assert (fault.kind, upstream.requests, pauses) == (FaultKind.RATE_LIMIT, [], [])
    assert fault.retry_after == pytest.approx(60, abs=5)


def test_nothing_of_an_answer_that_was_refused_stays_in_memory(ask: Asker) -> None:
    """Not even until the garbage collector comes by: 64 MiB for each of 128 slots would be too much to wait with."""
    ask.fault({"nan": True})
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for stream in (False, True):
            ask.fault({"nan": True, "size": 20_000_000, "no_stream": True}, stream)
            until(lambda: tracemalloc.get_traced_memory()[0] < 10_000_000, LONG, "memory given back")
    finally:
        tracemalloc.stop()
        gc.enable()
