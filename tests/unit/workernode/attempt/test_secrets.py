"""No secret and no text of the conversation gets out."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.fixtures import API_KEY
from tests.unit.workernode.attempt.bench import SECRET, Bench, both


@both
@pytest.mark.parametrize("status", [401, 400, 500])
def test_the_nodes_key_is_in_no_output(
    bench: Bench, caplog: pytest.LogCaptureFixture, status: int, stream: bool
) -> None:
    """Upstreams repeat the key that they refuse."""
    directive = {"status": status, "err_msg": f"Incorrect API key provided: {API_KEY}.", "err_code": f"x-{API_KEY}"}
    with caplog.at_level(logging.DEBUG):
        outcome, answer = bench.run(directive, stream, redeliveries=3)
    if status == 401:  # the supervisor decides whether the client gets this error
        error: Any = outcome.client_error
        assert "***" in error["error"]["message"]
        assert API_KEY not in repr(outcome) + outcome.record.decode() + caplog.text
        return
    answer.wait()
    texts = [one.body.decode() for one in answer.posts] + [one.text for one in answer.frames]
    assert texts
    for text in [*texts, repr(outcome), outcome.record.decode(), caplog.text]:
        assert API_KEY not in text
    assert answer.error is not None
    assert "***" in answer.error["message"]  # type: ignore[index]


def test_the_clients_headers_are_not_passed_on(bench: Bench) -> None:
    for stream in (False, True):
        outcome, _ = bench.run(stream=stream)
        assert SECRET not in repr(outcome)
    for one in bench.up.requests:
        assert SECRET not in one.request.head.decode() + one.body.decode()


def test_an_outcome_holds_no_text_of_the_conversation(bench: Bench) -> None:
    canary = "a-word-of-the-prompt"
    payload = {"messages": [{"role": "user", "content": canary}], "model": "m"}
    for stream in (False, True):
        outcome, answer = bench.run(stream=stream, changes={"data": payload})
        text = answer.wait().text
        assert text
        assert canary not in repr(outcome)
        assert text not in outcome.record.decode()
