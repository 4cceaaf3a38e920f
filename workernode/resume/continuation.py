"""A chat request and the text so far → the chat request that continues the text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workernode.guards import TOKEN_LIMITS
from workernode.json_access import as_count, member
from workernode.resume_style import ResumeStyle


def continued_request(data: Mapping[str, Any], style: ResumeStyle, text: str, tokens: int) -> dict[str, Any] | None:
    """Return the chat request whose answer is the rest of a text.

    Args:
        data: the client's chat request; `can_be_continued` has allowed it.
        text: of the answer, as far as the client has it. "": the request is asked once more as it was.
        tokens: produced for this text.

    Returns:
        None if the client's limit leaves no token: the answer is whole.
    """
    request = dict(data)
    for name in TOKEN_LIMITS:  # what was produced already is taken off
        limit = as_count(data.get(name))
        if limit is not None:
            request[name] = limit - tokens
            if request[name] <= 0:
                return None
    fewest = as_count(data.get("min_tokens"))  # vLLM
    if fewest is not None:
        request["min_tokens"] = max(0, fewest - tokens)
    if text:
        request["messages"] = _with_text(data["messages"], text, style)
        if style is ResumeStyle.VLLM:
            request |= {"continue_final_message": True, "add_generation_prompt": False}
    return request


def _with_text(messages: list[Any], text: str, style: ResumeStyle) -> list[Any]:
    """The text is the last message; a client that began the answer itself has its own words before it."""
    last = messages[-1]
    if member(last, "role") == "assistant":
        return [*messages[:-1], {**last, "content": last["content"] + text}]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if style is ResumeStyle.PREFIX:
        message["prefix"] = True
    return [*messages, message]
