"""Tokens of tasks for which upstream sent no usage."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.tokenizer import write_tokenizer
from workernode import token_estimate
from workernode.token_estimate import TOKENS_OF_THE_REPLY, TOKENS_PER_MESSAGE, TokenEstimator
from workernode.usage import Estimate


@pytest.fixture
def estimator(tmp_path: Path) -> TokenEstimator:
    return TokenEstimator(str(write_tokenizer(tmp_path)))


def prompt_of(estimator: TokenEstimator, *messages: Any, **more: Any) -> int:
    """The tokens of these messages without what the chat template adds."""
    estimate = estimator.estimate({"messages": list(messages), **more}, None)
    assert estimate is not None
    objects = [each for each in messages if isinstance(each, dict)]
    return estimate.prompt - TOKENS_PER_MESSAGE * len(objects) - TOKENS_OF_THE_REPLY


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"role": "user", "content": "one two three"}, 3),
        ({"role": "user", "content": ""}, 0),
        ({"role": "user", "content": None}, 0),
        ({"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]}, 3),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,a b c"}}]}, 0),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": "Paris"}}]}, 2),
        ({"content": "half a pair: \ud83d"}, 5),
        ({"content": [None, 3, {"text": 4}], "tool_calls": [None, {"function": "x"}]}, 0),
        ("no object", 0),
    ],
)
def test_the_texts_of_a_message_are_counted(estimator: TokenEstimator, message: Any, tokens: int) -> None:
    assert prompt_of(estimator, message) == tokens


def test_messages_and_tools_are_added_up(estimator: TokenEstimator) -> None:
    assert prompt_of(estimator, {"content": "one"}, {"content": "two three"}) == 3
    assert prompt_of(estimator, {"content": "one"}, tools=[{"a": 1}]) == 1 + len(('{"', "a", '":', "1", "}"))
    assert estimator.estimate({"messages": "none"}, None) == Estimate(TOKENS_OF_THE_REPLY)


def test_a_plain_answer_is_counted_choice_by_choice(estimator: TokenEstimator) -> None:
    answer = b'{"choices": [{"message": {"content": "one two"}}, {"message": {"content": "three"}}, null, {}]}'
    estimate = estimator.estimate({"messages": []}, answer)
    assert estimate is not None
    assert estimate.completion == 3


def test_an_answer_that_is_no_json_has_no_estimate_and_the_next_one_has(estimator: TokenEstimator) -> None:
    assert estimator.estimate({}, b"<html>") is None
    assert estimator.estimate({}, None) is not None


def test_of_a_very_long_text_the_start_is_counted(estimator: TokenEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_estimate, "MOST_CHARACTERS", 100)
    assert prompt_of(estimator, {"content": "word " * 1000}) == 1000


def test_a_file_that_is_no_tokenizer_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"canary": 1}')
    estimator = TokenEstimator(str(path))
    with caplog.at_level(logging.WARNING):
        assert [estimator.estimate({}, None) for _ in range(3)] == [None] * 3
    assert [record.__dict__["event"] for record in caplog.records] == ["tokenizer_failed"]


def test_an_estimate_that_takes_too_long_is_left_out(
    estimator: TokenEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(token_estimate, "PATIENCE", 0.01)
    monkeypatch.setattr(token_estimate, "load_tokenizer", lambda path: go_on.wait())
    try:
        assert estimator.estimate({}, None) is None
    finally:
        go_on.set()
