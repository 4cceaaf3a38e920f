"""Whether the answer to a chat request may be continued by another call: decided by the request alone. Pure.

What arrives in the stream can still forbid it (transcript.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workernode.json_access import member
from workernode.resume_style import ResumeStyle

# Members of a request that forbid it when they are set: the answer is not plain text (tools, a grammar), or more comes
# with the text than a second call can continue (log probabilities), or the server repeats the prompt (`echo`).
# From vLLM and SGLang: guided_*, structured_outputs, regex, ebnf, prompt_logprobs, use_beam_search, return_token_ids.
# From llama.cpp: grammar, json_schema, n_probs, return_tokens.
FORBIDDING = (
    *("tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "n_probs", "echo", "audio"),
    *("grammar", "json_schema", "structured_outputs", "regex", "ebnf", "use_beam_search", "web_search_options"),
    *("return_tokens", "return_token_ids", "return_tokens_as_token_ids"),
)
FORBIDDING_PREFIX = "guided_"


def can_be_continued(data: Mapping[str, Any], style: ResumeStyle) -> bool:
    """Return whether another call may continue the answer to this chat request.

    Args:
        data: the client's chat request.
        style: how upstream would be asked.
    """
    if style is ResumeStyle.OFF or any(data.get(name) for name in FORBIDDING):
        return False
    if any(value for name, value in data.items() if name.startswith(FORBIDDING_PREFIX)):
        return False
    if any(data.get(name) not in (None, 1) for name in ("n", "best_of")):
        return False
    if data.get("response_format") is not None and member(data["response_format"], "type") != "text":
        return False
    if data.get("modalities") not in (None, ["text"]):
        return False
    return _is_text_awaited(data, style)


def _is_text_awaited(data: Mapping[str, Any], style: ResumeStyle) -> bool:
    """The conversation ends with a turn that the assistant answers, or with the beginning of its answer as text."""
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        return False
    last = messages[-1]
    is_begun = member(last, "role") == "assistant"
    if style is ResumeStyle.VLLM and bool(data.get("continue_final_message")) is not is_begun:
        return False
    if style is ResumeStyle.VLLM and not is_begun and data.get("add_generation_prompt") is False:
        return False
    if not is_begun:
        return True
    is_prefix = style is not ResumeStyle.PREFIX or member(last, "prefix") is True
    return is_prefix and isinstance(member(last, "content"), str) and not member(last, "tool_calls")
