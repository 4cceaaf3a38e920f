"""What becomes of a stream when the call that is to go on with it is refused, is silent, or answers with no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.continuing import TOKENS, Break, ContinuingModel
from tests.support.wire import Request
from tests.unit.workernode.attempt.bench import LONG, record_of
from tests.unit.workernode.relay.streams import Make, ask, assert_one_stream, text_of
from workernode.protocol import Decision
from workernode.upstream import retry_policy


@pytest.mark.parametrize("server", ["mistral", "deepseek"])
def test_a_server_that_refuses_to_go_on_leaves_the_error_that_broke_the_stream(make: Make, server: str) -> None:
    model = ContinuingModel(server, breaks=[Break(6, "error")])
    outcome, answer = ask(make(model, "vllm"))
    assert (outcome.decision, outcome.status) == (Decision.ACK, "broken")
    assert len(model.bodies) == 3  # the refusal might be about `stream_options`: it is asked once more without
    assert answer.wait().error is not None
    assert answer.error["message"] == "it broke"  # type: ignore[index]


def test_upstream_is_asked_until_it_is_back(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(4)])
    bench, calls = make(model), 0

    def away(exchange: Any) -> Any:
        nonlocal calls
        calls += 1
        return {"status": 503} if 2 <= calls <= 9 else model(exchange)

    bench.up.script(away)
    outcome, answer = ask(bench)
    assert_one_stream(answer, model.text)
    assert (outcome.resumes, outcome.attempts) == (1, 10)


@pytest.mark.parametrize(
    "no_answer", ["data: [DONE]\n\n", 'data: {"x": NaN}\n\n', ""], ids=["no chunk", "NaN", "empty"]
)
def test_upstream_that_answers_with_no_answer_is_not_asked_to_the_end_of_the_tasks_time(
    make: Make, no_answer: str
) -> None:
    model = ContinuingModel(breaks=[Break(4)])
    bench = make(model)
    calls: list[Any] = []

    def useless(exchange: Any) -> Any:
        calls.append(exchange)
        return model(exchange) if len(calls) == 1 else {"raw": no_answer, "content_type": "text/event-stream"}

    bench.up.script(useless)
    outcome, answer = ask(bench)
    assert (outcome.status, len(calls)) == ("broken", 1 + retry_policy.ATTEMPTS)
    assert text_of(answer) == "".join(TOKENS[:4])


GARBAGE = b'data: {"choices": [{"ind\xff\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("second", "calls"),
    [
        ({"status": 500}, None),
        ({"status": 429}, None),
        ({"status": 401, "err_msg": "no"}, 2),
        ({"status": 404, "err_msg": "no"}, 2),
        ({"redirect_to": "/elsewhere"}, 2),
        ({"cut_after": -1}, None),
        ({"raw": b"<html>a page</html>", "content_type": "text/html"}, 2),
        ({"raw": GARBAGE, "content_type": "text/event-stream"}, 1 + retry_policy.ATTEMPTS),
    ],
    ids=["500", "429", "401", "404", "redirect", "cut", "a page", "garbage"],
)
def test_a_second_call_that_never_answers_ends_the_stream_with_the_error_that_broke_it(
    make: Make, second: dict[str, Any], calls: int | None
) -> None:
    """What may pass is asked for the task's time, the rest not again; a redirect is not followed."""
    model = ContinuingModel(breaks=[Break(4, "error")])
    bench = make(model)
    followed: list[Request] = []

    def elsewhere(request: Request) -> tuple[int, bytes]:
        followed.append(request)
        return 200, b"{}"

    bench.up.pages["/elsewhere"] = elsewhere
    bench.up.script(lambda exchange: second if model.bodies else model(exchange))
    outcome, answer = ask(bench, seconds=3.0)
    assert (outcome.decision, outcome.status, outcome.resumes) == (Decision.ACK, "broken", 1)
    assert answer.wait().error == {"message": "it broke", "type": "server_error", "param": None, "code": 500}
    assert (answer.text, answer.ends, answer.faults) == ("".join(TOKENS[:4]), 1, [])
    asked = len(bench.up.requests)
    if calls is None:  # to the end of the task's time
        assert asked > 1 + retry_policy.ATTEMPTS
    else:
        assert asked == calls
    assert followed == []


def test_a_part_with_garbage_in_its_middle_is_gone_on_with_like_one_that_was_cut(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(4), Break(3)])
    bench = make(model)

    def answer_of(exchange: Any) -> Any:
        directive = model(exchange)
        return {**directive, "raw": [*directive["raw"], GARBAGE]} if len(model.bodies) == 2 else directive

    bench.up.script(answer_of)
    outcome, answer = ask(bench)
    assert_one_stream(answer, model.text)
    assert (outcome.status, outcome.resumes) == ("answered", 2)


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_second_call_that_ends_at_once_ends_the_stream(make: Make, finish: str) -> None:
    """The model has nothing to add: the text is whole."""
    model = ContinuingModel(breaks=[Break(len(TOKENS))])
    bench = make(model)
    chunk = {"id": "2", "object": "chat.completion.chunk", "created": 2, "model": "served-2"}
    ending = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    raw = f"data: {json.dumps(ending)}\n\ndata: [DONE]\n\n".encode()
    only_end = {"raw": raw, "content_type": "text/event-stream"}
    bench.up.script(lambda exchange: only_end if model.bodies else model(exchange))
    outcome, answer = ask(bench)
    assert_one_stream(answer, model.text)
    assert (outcome.status, outcome.resumes, record_of(outcome)["outcome"]["end_reason"]) == ("answered", 1, finish)


def test_a_stream_is_not_resumed_beyond_its_tasks_time(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(4, "error")])
    bench = make(model)
    bench.up.script(lambda exchange: model(exchange) if not model.bodies else {"status": 503})
    outcome, answer = ask(bench, seconds=1.5)
    assert outcome.status == "broken"
    assert answer.wait().error == {"message": "it broke", "type": "server_error", "param": None, "code": 500}


def test_a_call_that_is_silent_in_the_middle_of_a_stream_ends_it_long_before_its_tasks_time(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(4, "error"), Break(0, "silent")])
    outcome, answer = ask(make(model, READ_TIMEOUT="0.2"), seconds=LONG)
    assert (outcome.status, len(model.bodies)) == ("broken", 2)
    assert answer.wait().error == {"message": "it broke", "type": "server_error", "param": None, "code": 500}
    assert answer.text == "".join(TOKENS[:4])


def test_a_call_that_goes_on_may_be_silent_as_long_as_the_first_one_was(make: Make) -> None:
    """Upstream reads the same prompt again."""
    model = ContinuingModel(breaks=[Break(4, "error")])
    bench = make(model, READ_TIMEOUT="0.1")
    bench.up.script(lambda exchange: {**model(exchange), "latency_ms": 300 if len(model.bodies) > 1 else 1500})
    outcome, answer = ask(bench)
    assert outcome.resumes == 1
    assert_one_stream(answer, model.text)
