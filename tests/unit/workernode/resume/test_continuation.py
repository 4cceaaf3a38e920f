"""The chat request that continues a text."""

from __future__ import annotations

from typing import Any

import pytest

from workernode.resume import continued_request
from workernode.resume_style import ResumeStyle

ASKED = {"role": "user", "content": "hi"}


def rest(style: ResumeStyle = ResumeStyle.LLAMACPP, text: str = "So far", tokens: int = 2, **data: Any) -> Any:
    return continued_request({"messages": [ASKED], **data}, style, text, tokens)


@pytest.mark.parametrize(
    ("style", "message", "members"),
    [
        (ResumeStyle.LLAMACPP, {}, {}),
        (ResumeStyle.VLLM, {}, {"continue_final_message": True, "add_generation_prompt": False}),
        (ResumeStyle.PREFIX, {"prefix": True}, {}),
    ],
)
def test_the_text_so_far_is_the_last_message_of_the_assistant(
    style: ResumeStyle, message: dict[str, Any], members: dict[str, Any]
) -> None:
    last = {"role": "assistant", "content": "So far", **message}
    assert rest(style, seed=7) == {"messages": [ASKED, last], "seed": 7, **members}


@pytest.mark.parametrize("style", ResumeStyle)
def test_without_a_text_the_request_is_asked_once_more(style: ResumeStyle) -> None:
    assert rest(style, "", 0, max_tokens=5) == {"messages": [ASKED], "max_tokens": 5}


def test_a_text_goes_on_behind_what_the_client_began() -> None:
    begun = {"role": "assistant", "content": "It ", "prefix": True}
    data = {"messages": [ASKED, begun]}
    made = continued_request(data, ResumeStyle.PREFIX, "is", 1)
    assert made == {"messages": [ASKED, {**begun, "content": "It is"}]}
    assert data == {"messages": [ASKED, begun]}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_what_was_produced_is_taken_off_the_limit(name: str) -> None:
    assert rest(**{name: 5})[name] == 3
    assert rest(**{name: 2}) is None
    assert rest(**{name: -1})[name] == -1  # llama.cpp: no limit
    assert rest(**{name: None})[name] is None


def test_fewer_tokens_are_missing_to_the_fewest() -> None:
    assert (rest(min_tokens=5)["min_tokens"], rest(min_tokens=1)["min_tokens"]) == (3, 0)
