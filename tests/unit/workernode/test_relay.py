"""Streams that upstream breaks off, between a fake upstream and a fake gateway: another call goes on with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.continuing import TOKENS, Break, ContinuingModel
from tests.support.gateway import Answer, FakeGateway
from tests.support.upstream import FakeUpstream
from tests.support.wire import Request
from tests.unit.workernode.attempt.bench import LONG, Bench, record_of
from workernode import attempt, relay
from workernode.call_stats import CallStats
from workernode.gateway import timing
from workernode.protocol import Decision, Outcome, SavedStream
from workernode.upstream import retry_policy

STYLES = {"llamacpp": "llamacpp", "vllm": "vllm", "mistral": "prefix", "deepseek": "prefix"}
Make = Callable[..., Bench]


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


def ask(bench: Bench, seconds: float = LONG, **chat: Any) -> tuple[Outcome, Answer]:
    chat = {"messages": [{"role": "user", "content": "What is the sea like?"}], **chat}
    return bench.run(stream=True, seconds=seconds, **chat)


def chunks_of(answer: Answer) -> list[dict[str, Any]]:
    return answer.wait().chunks


def text_of(answer: Answer) -> str:
    choices = [choice for chunk in chunks_of(answer) for choice in chunk.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def assert_one_stream(answer: Answer, text: str) -> None:
    """What the client got reads as one stream with this text."""
    chunks = chunks_of(answer)
    assert (answer.faults, answer.ends, answer.error, text_of(answer)) == ([], 1, None, text)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len([choice for choice in choices if choice["delta"].get("role")]) == 1
    assert len([choice for choice in choices if choice["finish_reason"]]) == 1


@pytest.mark.parametrize("how", ["end", "reset", "error"])
@pytest.mark.parametrize("after", range(len(TOKENS) + 1))
def test_a_stream_goes_on_wherever_upstream_breaks_it_off(make: Make, after: int, how: str) -> None:
    model = ContinuingModel(breaks=[Break(after, how)])
    outcome, answer = ask(make(model))
    assert_one_stream(answer, model.text)
    assert (outcome.decision, outcome.status, outcome.attempts, outcome.resumes) == (Decision.ACK, "answered", 2, 1)


@pytest.mark.parametrize("server", STYLES)
def test_each_server_is_asked_in_its_own_form(make: Make, server: str) -> None:
    model = ContinuingModel(server, breaks=[Break(6), Break(2)])
    outcome, answer = ask(make(model))
    assert_one_stream(answer, model.text)
    assert outcome.resumes == 2


@pytest.mark.parametrize("server", ["mistral", "deepseek"])
def test_a_server_that_refuses_to_go_on_leaves_the_error_that_broke_the_stream(make: Make, server: str) -> None:
    model = ContinuingModel(server, breaks=[Break(6, "error")])
    outcome, answer = ask(make(model, "vllm"))
    assert (outcome.decision, outcome.status) == (Decision.ACK, "broken")
    assert len(model.bodies) == 3  # the refusal might be about `stream_options`: it is asked once more without
    assert answer.wait().error is not None
    assert answer.error["message"] == "it broke"  # type: ignore[index]


def test_a_stream_is_not_resumed_more_than_twice(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(3)] * 3)
    outcome, answer = ask(make(model))
    assert (outcome.status, outcome.resumes, len(model.bodies)) == ("broken", 2, 3)
    assert answer.wait().error is not None


def test_a_request_that_upstream_refuses_in_the_middle_is_not_resumed(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(3, "refusal")])
    outcome, _ = ask(make(model))
    assert (outcome.status, len(model.bodies)) == ("broken", 1)


def test_without_a_style_a_stream_that_breaks_ends_with_an_error(make: Make) -> None:
    outcome, answer = ask(make(ContinuingModel(breaks=[Break(3)]), "off"))
    assert (outcome.status, outcome.resumes) == ("broken", 0)
    assert answer.wait().error is not None


def test_usage_of_all_parts_and_the_breaks_are_in_the_record(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(4), Break(3)])
    outcome, answer = ask(make(model), stream_options={"include_usage": True})
    made = record_of(outcome)
    completion = len(TOKENS)
    assert (made["usage"]["completion_tokens"], made["usage_source"]) == (completion, "counted")
    assert [(each["reason"], each["after_tokens"]) for each in made["resumes"]] == [
        ("stream_cut", 4),
        ("stream_cut", 7),
    ]
    assert made["attempts"] == 3
    assert (made["upstream_model"], made["outcome"]["end_reason"]) == ("served-3", "stop")
    usage = chunks_of(answer)[-1]["usage"]
    assert usage["completion_tokens"] == completion
    assert usage["total_tokens"] == usage["prompt_tokens"] + completion


def test_all_calls_for_a_stream_belong_to_one_trace(make: Make) -> None:
    bench = make(ContinuingModel(breaks=[Break(4), Break(3)]))
    outcome, _ = ask(bench)
    traces = [asked.headers["traceparent"].split("-")[1] for asked in bench.up.requests]
    assert traces == [record_of(outcome)["trace_id"]] * 3


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_tokens_holds_for_all_parts(make: Make, limit: str) -> None:
    model = ContinuingModel(breaks=[Break(4)])
    outcome, answer = ask(make(model), **{limit: 6})
    assert_one_stream(answer, "".join(TOKENS[:6]))
    assert (model.bodies[1][limit], record_of(outcome)["outcome"]["end_reason"]) == (2, "length")


def test_a_break_behind_the_last_token_that_the_limit_allows_is_the_end(make: Make) -> None:
    model = ContinuingModel(breaks=[Break(6)])
    outcome, answer = ask(make(model), max_tokens=6)
    assert_one_stream(answer, "".join(TOKENS[:6]))
    assert (outcome.status, len(model.bodies), outcome.completion_tokens) == ("answered", 1, 6)
    assert record_of(outcome)["outcome"]["end_reason"] == "length"


def test_the_beginning_of_a_stop_sequence_is_held_back(make: Make) -> None:
    """The text that is continued never ends inside what may be a stop sequence."""
    model = ContinuingModel(breaks=[Break(4)])
    _, answer = ask(make(model), stop=["blue, and green"])
    assert model.bodies[1]["messages"][-1]["content"] == "The sea is"
    assert_one_stream(answer, model.text)


def test_the_end_of_an_answer_without_a_finish_reason_holds_nothing_back(make: Make) -> None:
    def change(chunk: dict[str, Any]) -> dict[str, Any]:
        return {**chunk, "choices": [{**choice, "finish_reason": None} for choice in chunk["choices"]]}

    model = ContinuingModel(change=change)
    outcome, answer = ask(make(model), stop=[".\n"])
    assert (outcome.status, text_of(answer)) == ("answered", model.text)


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


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]},
        {"content": [{"type": "text", "text": "a"}]},
    ],
    ids=["reasoning", "tool-call", "list of parts"],
)
def test_what_is_no_plain_text_is_not_resumed(make: Make, delta: dict[str, Any]) -> None:
    def change(chunk: dict[str, Any]) -> dict[str, Any]:
        chunk["choices"][0]["delta"] |= delta
        return chunk

    model = ContinuingModel(breaks=[Break(4)], change=change)
    outcome, _ = ask(make(model))
    assert (outcome.status, len(model.bodies)) == ("broken", 1)


# --- a stream whose worker died ---


def resumed(bench: Bench, saved: SavedStream, **chat: Any) -> tuple[Outcome, Answer]:
    """Run a job that goes on with a stream."""
    bench.gateway.register("x")
    chat = {"messages": [{"role": "user", "content": "What is the sea like?"}], **chat}
    job = replace(bench.job(bench.payload("x", {}, True, {}, **chat)), resume=saved)
    return attempt.run(job, bench.services, bench.progress), bench.gateway.answer("x")


def saved(text: str, tokens: int, **more: Any) -> SavedStream:
    facts: dict[str, Any] = {"has_role": True, "resumes": 0, "is_finished": False, **more}
    asked = CallStats(attempts=1, first_sent_at=1.0, sent_at=1.0, first_at=2.0, text_chunks=tokens)
    return SavedStream({"id": "first", "created": 7, "model": "m"}, text=text, tokens=tokens, asked=asked, **facts)


@pytest.mark.parametrize("tokens", [0, 1, 11])
def test_another_worker_goes_on_behind_what_the_client_was_sent(make: Make, tokens: int) -> None:
    model = ContinuingModel()
    outcome, answer = resumed(make(model), saved("".join(TOKENS[:tokens]), tokens))
    assert text_of(answer) == "".join(TOKENS[tokens:])
    assert {(chunk["id"], chunk["created"]) for chunk in chunks_of(answer)} == {("first", 7)}
    assert not [choice for chunk in chunks_of(answer) for choice in chunk["choices"] if choice["delta"].get("role")]
    assert (outcome.status, outcome.attempts, outcome.resumes, answer.ends) == ("answered", 2, 1, 1)
    made = record_of(outcome)
    assert (made["usage"]["completion_tokens"], made["resumes"][0]["after_tokens"]) == (len(TOKENS), tokens)


def test_of_a_text_that_is_whole_only_the_end_is_sent(make: Make) -> None:
    model = ContinuingModel()
    outcome, answer = resumed(make(model), saved(model.text, len(TOKENS), is_finished=True))
    assert answer.wait().chunks == []
    assert (outcome.status, outcome.completion_tokens, answer.ends, model.bodies) == ("answered", len(TOKENS), 1, [])


def test_a_stream_that_may_not_go_on_ends_with_an_error(make: Make) -> None:
    model = ContinuingModel()
    outcome, answer = resumed(make(model), saved("half \ufffd", 2))
    assert (outcome.status, answer.wait().ends, model.bodies) == ("broken", 1, [])
    assert answer.error is not None
    assert answer.error["code"] == "stream_interrupted"
