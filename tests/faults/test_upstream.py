"""Upstream at its worst: what the client sees, what becomes of the message, and how often upstream was asked.

The cases of a table run at the same time on one node, so that their waits overlap; each is judged alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.testbed import Testbed, pss_bytes
from tests.support.wait import until

TRIES = 4  # of one delivery (workernode/upstream/retry_policy.py)
BOTH = (False, True)


@dataclass(frozen=True)
class Case:
    """An upstream fault for good, or for a while, and what it must come to."""

    name: str
    does: dict[str, Any]
    status: str  # of the last record
    asked: tuple[int, ...] = (1,)  # how often upstream may have been asked
    code: str | None = None  # of the error that the client sees; None: whatever upstream's own was
    message: str = ""  # a part of what the client reads
    ways: tuple[bool, ...] = BOTH  # plain, streamed
    seen_text: bool = False  # the client saw a part of the answer before


# At most one delivery and one redelivery with all their tries. A node that finds its upstream away, because nearly all
# calls fail, repeats no call, and asks only by probes.
FOR_GOOD = tuple(range(1, TRIES * 2 + 1))
AWAY = "model_unavailable"  # the code of the error that a client gets in the second case
PASSING_STATUS = (408, 409, 425, 500, 502, 503, 504, 529)
FINAL_STATUS = (400, 413, 415, 422)

CASES = [
    *(Case(f"{n} for good", {"status": n}, "gave_up", FOR_GOOD, message=f"lab error {n}") for n in PASSING_STATUS),
    *(Case(f"{n} twice", {"status": n, "fail_times": 2}, "answered", (3,)) for n in PASSING_STATUS),
    *(
        # Of a stream, 400 and 422 may be about stream_options: it is asked once more without them (spec 6).
        Case(f"{n} is final", {"status": n, "err_type": "invalid_request_error"}, "refused",
             (1, 2) if n in (400, 422) else (1,), message=f"lab error {n}")
        for n in FINAL_STATUS
    ),
    Case("policy", {"status": 403, "err_code": "content_policy_violation"}, "refused", code="content_policy_violation"),
    Case("x-should-retry true", {"status": 400, "headers": {"x-should-retry": "true"}, "fail_times": 1},
         "answered", (2,)),
    Case("x-should-retry false", {"status": 500, "headers": {"x-should-retry": "false"}}, "refused"),
    Case("reset for good", {"reset": True}, "gave_up", FOR_GOOD, "upstream_unreachable"),
    Case("reset twice", {"reset": True, "fail_times": 2}, "answered", (3,)),
    Case("closed without an answer", {"close": True, "fail_times": 1}, "answered", (2,)),
    Case("silent for longer than READ_TIMEOUT before the answer", {"latency_ms": 3000}, "answered"),
    Case("half an answer", {"truncated": True, "fail_times": 1}, "answered", (2,), ways=(False,)),
    Case("half an answer for good", {"truncated": True}, "gave_up", FOR_GOOD, "upstream_unreachable", ways=(False,)),
    Case("cut in the body", {"cut_after": 20, "fail_times": 1}, "answered", (2,), ways=(False,)),
    Case("length too small", {"wrong_length": True, "fail_times": 1}, "answered", (2,), ways=(False,)),
    Case("HTML with 502", {"html": True, "status": 502}, "gave_up", FOR_GOOD, message="502 and text/html"),
    Case("201", {"status": 201, "raw": '{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'},
         "answered"),
    Case("wrong content type", {"content_type": "text/html"}, "answered"),
    Case("204", {"status": 204, "raw": ""}, "gave_up", FOR_GOOD, "bad_answer"),
    Case("no choices", {"raw": "{}"}, "gave_up", FOR_GOOD, "bad_answer"),
    Case("a list", {"raw": "[]"}, "gave_up", FOR_GOOD, "bad_answer"),
    Case("empty", {"raw": ""}, "gave_up", FOR_GOOD, "bad_answer"),
    Case("deep nesting", {"deep": 100_000}, "gave_up", FOR_GOOD, "bad_answer", ways=(False,)),
    Case("NaN", {"nan": True}, "gave_up", FOR_GOOD, "bad_answer", ways=(False,)),
    Case("invalid UTF-8", {"invalid_utf8": True}, "gave_up", FOR_GOOD, "bad_answer", ways=(False,)),
    # In a stream the good first chunk leaves before the bad one is seen.
    Case("deep chunk", {"deep": 100_000, "chunk_ms": 50}, "broken", (1,), "bad_answer", ways=(True,)),
    Case("NaN chunk", {"nan": True}, "broken", (1,), "bad_answer", ways=(True,)),
    Case("invalid UTF-8 chunk", {"invalid_utf8": True}, "broken", (1,), "bad_answer", ways=(True,)),
    Case("error in a 200", {"raw": '{"error":{"message":"in band","type":"server_error","code":null}}'},
         "gave_up", FOR_GOOD, message="in band"),
    Case("final error in a 200", {"raw": '{"error":{"message":"too long","type":"invalid_request_error",'
         '"code":"context_length_exceeded"}}'}, "refused", code="context_length_exceeded"),
    Case("error before text", {"raw": 'data: {"error":{"message":"in band","type":"server_error"}}\n\n'},
         "gave_up", FOR_GOOD, message="in band", ways=(True,)),
    Case("error in the middle", {"error_mid": True, "chunk_ms": 30}, "broken", (1,), message="mid-stream failure",
         ways=(True,), seen_text=True),
    Case("cut in the middle", {"cut_after": 3, "chunk_ms": 30}, "broken", (1,), "upstream_unreachable", ways=(True,),
         seen_text=True),
    Case("ended in the middle", {"no_finish": True, "no_done": True, "chunk_ms": 30}, "broken", (1,), "stream_cut",
         ways=(True,), seen_text=True),
    Case("silent in the middle", {"chunk_ms": 30_000}, "broken", (1,), "upstream_timeout", ways=(True,),
         seen_text=True),
    Case("no [DONE]", {"no_done": True}, "answered", ways=(True,)),
    Case("body ended by closing", {"close_delimited": True}, "answered"),
    Case("kept connection gone stale", {"then_close": True}, "answered"),
]  # fmt: skip
TABLE = [
    pytest.param(case, way, id=f"{case.name}-{'stream' if way else 'plain'}") for case in CASES for way in case.ways
]


@pytest.fixture(scope="module")
def ids(build: Callable[..., Testbed]) -> tuple[Testbed, dict[tuple[str, bool], str]]:
    """A testbed in which every case of the table was asked, and the ids of the tasks."""
    testbed = build(READ_TIMEOUT=1, MAX_REDELIVERIES=1, MAX_PROCESS_NUM=128)
    testbed.start()
    asked = {}
    for case in CASES:
        for way in case.ways:
            does = {**case.does, "key": f"{case.name}-{way}"}
            asked[case.name, way] = testbed.platform.ask(does, stream=way)
    return testbed, asked


@pytest.mark.parametrize(("case", "way"), TABLE)
def test_a_fault_of_upstream(case: Case, way: bool, ids: tuple[Testbed, dict[tuple[str, bool], str]]) -> None:
    testbed, asked = ids
    id = asked[case.name, way]
    answer = testbed.answer(id)
    record = testbed.last_record(id)
    assert record["outcome"]["status"] == case.status, record
    assert record["outcome"]["decision"] == "ack"
    assert testbed.asked(id) in case.asked
    assert testbed.naks(id) == (1 if case.status == "gave_up" else 0)
    assert record["redeliveries"] == testbed.naks(id)
    assert not answer.faults, answer.faults
    if case.status == "answered":
        assert answer.error is None
        assert answer.text
    else:
        assert answer.error is not None
        assert set(answer.error) >= {"message", "type"}
        if answer.error["code"] != AWAY or case.asked != FOR_GOOD:
            assert case.code is None or answer.error["code"] == case.code
            assert case.message in answer.error["message"]
    if case.seen_text:
        assert answer.text
        assert record["usage_source"] in ("upstream", "counted")
    if way:
        assert answer.ends == 1


def test_nothing_is_left_of_it_in_the_broker(ids: tuple[Testbed, dict[tuple[str, bool], str]]) -> None:
    testbed, asked = ids
    testbed.platform.wait_balanced(list(asked.values()))


@pytest.mark.parametrize("way", BOTH, ids=("plain", "stream"))
@pytest.mark.parametrize("fault", ["gzip_bomb_mb", "big_mb"])
def test_an_answer_over_64_MiB_is_refused_and_does_not_stay_in_memory(
    fault: str, way: bool, build: Callable[..., Testbed]
) -> None:
    testbed = build(MAX_REDELIVERIES=0, WORKER_PROCESSES=1)
    node = testbed.start()
    before = pss_bytes(node)
    id = testbed.platform.ask({fault: 80 if fault == "gzip_bomb_mb" else 65, "chunks": 1}, stream=way)
    answer = testbed.answer(id, 60)
    assert answer.error is not None
    assert answer.error["code"] in ("answer_too_large", "bad_answer"), answer.error
    assert testbed.asked(id) == 1  # it would be as large again
    assert testbed.last_record(id)["outcome"]["decision"] == "ack"
    until(lambda: pss_bytes(node) < before + (64 << 20), 30, "memory given back")
    assert testbed.platform.ask_and_wait("still there").text
    testbed.close_nodes()


def test_upstream_that_refuses_connections_is_asked_again_when_it_is_back(build: Callable[..., Testbed]) -> None:
    testbed = build(MAX_REDELIVERIES=9)
    testbed.start()
    testbed.upstream.down()
    ids = [testbed.platform.ask("hello", stream=way) for way in BOTH]
    testbed.node.wait_log("upstream_trouble")  # the first has gone back to the broker
    testbed.upstream.up()
    for id in ids:
        assert testbed.answer(id).error is None
        assert testbed.asked(id) == 1
    testbed.platform.wait_balanced()
    testbed.close_nodes()


def test_429_is_obeyed_and_then_answered(build: Callable[..., Testbed]) -> None:
    testbed = build()
    testbed.start()
    limited = {"status": 429, "err_type": "requests", "err_code": "rate_limit_exceeded", "fail_times": 1}
    id = testbed.platform.ask({**limited, "key": "seconds", "headers": {"retry-after": "1"}})
    assert testbed.answer(id).error is None
    first, second = testbed.upstream.of("seconds")
    assert second.at - first.at >= 1.0  # no sooner than upstream asked for
    id = testbed.platform.ask({**limited, "key": "unnamed"}, stream=True)
    assert testbed.answer(id).error is None
    assert testbed.upstream.count("unnamed") == 2
    testbed.platform.wait_balanced()
    testbed.close_nodes()


def test_a_slow_drip_ends_with_the_tasks_time(hasty: Testbed) -> None:
    start = time.time()
    ids = [hasty.platform.ask({"drip_ms": 100, "chunks": 50}, stream=way) for way in BOTH]
    for id in ids:
        answer = hasty.answer(id)
        assert answer.error is not None
        record = hasty.last_record(id)
        assert record["outcome"]["status"] in ("expired", "broken")
        assert hasty.asked(id) == 1
        (asked,) = [one for one in hasty.upstream.requests if one.headers.get("x-client-request-id") == id]
        until(lambda asked=asked: asked.left_at, 5, "end of upstream's work")  # type: ignore[misc]
        assert asked.left_at is not None
        assert asked.left_at - start < hasty.task_timeout + 5


def test_an_old_task_is_not_asked_upstream_and_its_client_gets_a_timeout_error(hasty: Testbed) -> None:
    hasty.node.sigterm()
    hasty.node.wait_exit()
    ids = [hasty.platform.ask("late", stream=way) for way in BOTH]
    published = time.monotonic()
    until(lambda: time.monotonic() - published > hasty.task_timeout, 30, "age")
    hasty.start()
    for id in ids:
        answer = hasty.answer(id)
        assert answer.error is not None
        assert answer.error["code"] == "timeout"
        assert hasty.asked(id) == 0
        assert hasty.last_record(id)["outcome"]["status"] == "expired"
    hasty.platform.wait_balanced(ids)


@pytest.fixture(scope="module")
def hasty(build: Callable[..., Testbed]) -> Testbed:
    """A testbed whose tasks have little time."""
    testbed = build(TASK_TIMEOUT=4, READ_TIMEOUT=10)
    testbed.start()
    return testbed


UNFIT = [
    pytest.param({"status": 401, "err_code": "invalid_api_key"}, "AuthenticationError", id="key refused"),
    pytest.param({"status": 429, "err_type": "insufficient_quota"}, "APIQuotaExceededError", id="quota used up"),
    pytest.param(
        {"status": 404, "err_type": "invalid_request_error", "err_code": "model_not_found"},
        "ConfigurationError",
        id="model unknown",
    ),
]


@pytest.fixture(scope="module")
def unfit(build: Callable[..., Testbed]) -> Testbed:
    """A testbed for what makes its node unfit."""
    testbed = build(MAX_REDELIVERIES=1)
    testbed.start()
    return testbed


@pytest.mark.parametrize(("does", "reason"), UNFIT)
def test_a_failure_that_needs_a_person_is_reported_and_the_client_gets_the_error_after_the_redeliveries(
    does: dict[str, Any], reason: str, unfit: Testbed
) -> None:
    unfit.upstream.mode = does
    try:
        # Enough tasks that upstream refuses alike: of a few, each would be found to be its own task's fault (spec 5).
        ids = [unfit.platform.ask("hello", stream=way) for way in BOTH * 4]
        for id in ids:
            answer = unfit.answer(id)
            assert answer.error is not None
            record = unfit.last_record(id)
            assert record["outcome"]["status"] == "gave_up"
            assert record["redeliveries"] == 1
            assert unfit.naks(id) == 1
        reports = [line for line in unfit.node.logs() if line.get("event") == "report"]
        assert reports[-1]["reason"] == reason
        assert unfit.node.wait_not_ready()
    finally:
        unfit.upstream.mode = None
    assert unfit.answer(unfit.platform.ask("well again"), 60).finished_at  # answer or error

    def fit() -> bool:
        unfit.answer(unfit.platform.ask("a probe"))
        return unfit.node.status()[0] == 200

    until(fit, 30, "fit node")
