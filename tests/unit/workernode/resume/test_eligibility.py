"""Which chat requests may be continued by another call."""

from __future__ import annotations

from typing import Any

import pytest

from workernode.resume import can_be_continued
from workernode.resume_style import ResumeStyle

ASKED = [{"role": "user", "content": "hi"}]
BEGUN = [*ASKED, {"role": "assistant", "content": "It"}]
ALL = [style for style in ResumeStyle if style is not ResumeStyle.OFF]


def request(messages: Any = ASKED, **members: Any) -> dict[str, Any]:
    return {"messages": messages, **members}


@pytest.mark.parametrize("style", ALL)
@pytest.mark.parametrize(
    "members",
    [
        {},
        {"n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "modalities": ["text"]},
        {"stop": ["\n"], "max_tokens": 5, "temperature": 0, "seed": 1, "user": "u"},
    ],
)
def test_a_request_for_plain_text_may_be_continued(style: ResumeStyle, members: dict[str, Any]) -> None:
    assert can_be_continued(request(**members), style)


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": "json"},
        {"guided_json": {"type": "object"}},
        {"guided_choice": ["a"]},
        {"grammar": "root ::= x"},
        {"json_schema": {"type": "object"}},
        {"structured_outputs": {"regex": "a"}},
        {"n": 2},
        {"best_of": 3},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"n_probs": 4},
        {"echo": True},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"messages": []},
        {"messages": "hi"},
    ],
    ids=str,
)
@pytest.mark.parametrize("style", ALL)
def test_a_request_for_more_than_plain_text_may_not(style: ResumeStyle, members: dict[str, Any]) -> None:
    assert not can_be_continued(request() | members, style)


def test_nothing_may_be_continued_where_it_is_off() -> None:
    assert not can_be_continued(request(), ResumeStyle.OFF)


@pytest.mark.parametrize(
    ("style", "messages", "members", "may"),
    [
        (ResumeStyle.LLAMACPP, BEGUN, {}, True),
        (ResumeStyle.LLAMACPP, [*ASKED, {"role": "assistant", "content": [{"type": "text"}]}], {}, False),
        (ResumeStyle.LLAMACPP, [*ASKED, {"role": "assistant", "content": "a", "tool_calls": [{}]}], {}, False),
        (ResumeStyle.VLLM, BEGUN, {"continue_final_message": True, "add_generation_prompt": False}, True),
        (ResumeStyle.VLLM, BEGUN, {}, False),
        (ResumeStyle.VLLM, ASKED, {"continue_final_message": True}, False),
        (ResumeStyle.VLLM, ASKED, {"add_generation_prompt": False}, False),
        (ResumeStyle.PREFIX, BEGUN, {}, False),
        (ResumeStyle.PREFIX, [*ASKED, {"role": "assistant", "content": "It", "prefix": True}], {}, True),
    ],
)
def test_an_answer_that_the_client_began_may_be_continued_where_upstream_continues_it(
    style: ResumeStyle, messages: Any, members: dict[str, Any], may: bool
) -> None:
    assert can_be_continued(request(messages, **members), style) is may
