"""Faults of upstream: refused, given up, sent back, broken in the middle of a stream."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import pytest

from tests.unit.workernode.attempt.bench import Bench, both, record_of
from workernode.protocol import NODE_KINDS, AnswerState, Decision, FaultKind
from workernode.upstream import StreamedAnswer

# --- refused, given up, sent back ---


ENDS: dict[str, tuple[dict[str, Any], Decision, str, FaultKind]] = {
    "400": ({"status": 400, "err_type": "invalid_request_error"}, Decision.ACK, "refused", FaultKind.CLIENT),
    "404": ({"status": 404}, Decision.NAK, "model_unknown", FaultKind.MODEL),
    "413": ({"status": 413, "html": True}, Decision.ACK, "refused", FaultKind.CLIENT),
    "422": ({"status": 422}, Decision.ACK, "refused", FaultKind.CLIENT),
    "redirect": ({"redirect_to": "/v1/chat/completions"}, Decision.NAK, "address_unknown", FaultKind.ADDRESS),
    "policy": ({"status": 400, "err_code": "content_policy_violation"}, Decision.ACK, "refused", FaultKind.CLIENT),
    "503": ({"status": 503}, Decision.NAK, "upstream_trouble", FaultKind.UNAVAILABLE),
    "reset": ({"reset": True}, Decision.NAK, "upstream_trouble", FaultKind.PASSING),
    "html": ({"html": True}, Decision.NAK, "address_unknown", FaultKind.ADDRESS),
    "429": ({"status": 429, "err_code": "rate_limit_exceeded"}, Decision.NAK, "rate_limited", FaultKind.RATE_LIMIT),
    "429_ramp": ({"status": 429, "err_code": "slow_down"}, Decision.NAK, "rate_limited", FaultKind.RAMP),
    "429_quota": ({"status": 429, "err_code": "insufficient_quota"}, Decision.NAK, "quota_used_up", FaultKind.QUOTA),
    "401": ({"status": 401, "err_code": "invalid_api_key"}, Decision.NAK, "key_refused", FaultKind.KEY),
    "404_model": ({"status": 404, "err_code": "model_not_found"}, Decision.NAK, "model_unknown", FaultKind.MODEL),
}


@both
@pytest.mark.parametrize(("directive", "decision", "status", "kind"), ENDS.values(), ids=ENDS.keys())
def test_a_fault_of_upstream_ends_a_delivery(
    bench: Bench, directive: dict[str, Any], decision: Decision, status: str, kind: FaultKind, stream: bool
) -> None:
    outcome, answer = bench.run({"err_msg": "upstream's own text", **directive}, stream)
    assert (outcome.decision, outcome.status, outcome.upstream_answered) == (decision, status, False)
    assert outcome.fault is not None
    assert outcome.fault.kind is kind
    made = record_of(outcome)
    assert made["outcome"]["error"] is not None
    if decision is Decision.NAK:
        assert not answer.posts + answer.frames  # type: ignore[operator]
        assert AnswerState.STARTED not in bench.progress.shown
        # What its client gets if the fault turns out to be the task's own.
        assert (outcome.client_error is not None) is (kind in NODE_KINDS)
        if outcome.client_error is not None and "html" not in directive and "redirect_to" not in directive:
            assert outcome.client_error["error"]["message"] == "upstream's own text"
        return
    assert answer.wait().faults == []
    assert answer.error is not None
    assert set(answer.error) == {"message", "type", "param", "code"}
    if "redirect_to" not in directive and "html" not in directive:
        assert answer.error["message"] == "upstream's own text"


@both
@pytest.mark.parametrize("name", [name for name, row in ENDS.items() if row[1] is Decision.NAK])
def test_a_fault_that_lasts_beyond_the_redeliveries_gives_the_client_an_error(
    bench: Bench, name: str, stream: bool
) -> None:
    outcome, answer = bench.run(ENDS[name][0], stream, redeliveries=3)
    if ENDS[name][3] in NODE_KINDS:  # the supervisor decides which error the client gets
        assert (outcome.decision, outcome.client_error is not None) == (Decision.NAK, True)
        assert not answer.posts + answer.frames  # type: ignore[operator]
        return
    assert (outcome.decision, outcome.status) == (Decision.ACK, "gave_up")
    assert answer.wait().faults == []
    assert answer.error is not None
    assert record_of(outcome)["redeliveries"] == 3


@both
def test_a_fault_at_the_end_of_the_tasks_time_is_a_timeout_error(bench: Bench, stream: bool) -> None:
    """It would be too old when it came back."""
    outcome, answer = bench.run({"hang_ms": 60_000}, stream, seconds=0.2)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "expired")
    assert answer.wait().error == {
        "message": "The request was not answered within 300 seconds. Please try again.",
        "type": "timeout", "param": None, "code": "timeout",
    }  # fmt: skip


@pytest.mark.parametrize("retry_after", ["7", "3600"])
def test_a_nak_carries_upstreams_retry_after(bench: Bench, retry_after: str) -> None:
    outcome, _ = bench.run({"status": 429, "headers": {"Retry-After": retry_after}}, seconds=5)
    assert outcome.decision is Decision.NAK
    assert outcome.fault is not None
    assert outcome.fault.retry_after == float(retry_after)


@both
@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_is_not_found_is_the_nodes_fault_only_if_it_is_its_own(
    bench: Bench, own: bool, stream: bool
) -> None:
    outcome, _ = bench.run({"status": 404, "err_code": "model_not_found"}, stream, model="m" if own else "gpt-99")
    assert outcome.status == ("model_unknown" if own else "refused")


# --- in the middle of a stream ---


BREAKS: dict[str, dict[str, Any]] = {
    "error": {"error_mid": True},
    "cut": {"cut_after": 3},
    "no_end": {"no_finish": True, "no_done": True, "no_usage": True},
}


@pytest.mark.parametrize("directive", BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.parametrize("redeliveries", [0, 3])
def test_a_stream_that_breaks_ends_with_an_error_and_is_billed(
    bench: Bench, directive: dict[str, Any], redeliveries: int
) -> None:
    release = threading.Thread(target=lambda: bench.gateway.wait_for_frames("x", 1) and bench.up.open_gate("g"))
    release.start()
    outcome, answer = bench.run({"gate_chunks": "g", **directive}, stream=True, id="x", redeliveries=redeliveries)
    release.join()
    assert (outcome.decision, outcome.status, outcome.attempts) == (Decision.ACK, "broken", 1)
    assert answer.wait().faults == []
    assert (answer.ends, answer.frames[-1].end, answer.error is not None) == (1, True, True)
    made = record_of(outcome)
    assert made["usage_source"] == "counted"
    assert made["usage"]["completion_tokens"] == outcome.completion_tokens >= 1
    assert bench.progress.shown[0] is AnswerState.STARTED


def test_usage_that_came_before_the_break_is_billed(bench: Bench) -> None:
    chunk = {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 41}}
    pieces = [f"data: {json.dumps(chunk)}\n\n", 'data: {"error":{"message":"x"}}\n\n']
    made = record_of(bench.run({"raw": pieces, "chunk_ms": 300}, stream=True)[0])
    assert (made["usage_source"], made["usage"]["completion_tokens"]) == ("upstream", 41)


def test_a_stream_that_broke_does_not_stay_in_memory(bench: Bench) -> None:
    """Not even until the garbage collector comes: it may be 64 MiB of one chunk."""
    gc.collect()
    gc.disable()
    try:
        outcome, _ = bench.run({"error_mid": True, "chunk_ms": 20}, True)
        assert outcome.status == "broken"
        assert not [each for each in gc.get_objects() if isinstance(each, StreamedAnswer)]
    finally:
        gc.enable()
