"""What a client gets when upstream breaks its stream off: another call goes on with it, where it may."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.continuing import TOKENS, Break, ContinuingModel
from tests.unit.workernode.attempt.bench import record_of
from tests.unit.workernode.relay.streams import STYLES, Make, ask, assert_one_stream, chunks_of, text_of
from workernode.protocol import Decision


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
