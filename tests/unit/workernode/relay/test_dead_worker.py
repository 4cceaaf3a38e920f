"""What a client gets when the worker of its stream has died: another worker goes on with what was saved of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.continuing import TOKENS, ContinuingModel
from tests.support.gateway import Answer
from tests.unit.workernode.attempt.bench import Bench, record_of
from tests.unit.workernode.relay.streams import Make, chunks_of, text_of
from workernode import attempt
from workernode.call_stats import CallStats
from workernode.protocol import Outcome, SavedStream


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
