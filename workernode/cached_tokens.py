"""How much of a prompt upstream had in its cache. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workernode.usage import token_count


def cached_tokens(usage: Mapping[str, Any] | None) -> int:
    """Return how many tokens of the prompt upstream had in its cache; never more than the prompt has."""
    if not usage:
        return 0
    cached = token_count(usage.get("prompt_tokens_details"), "cached_tokens")
    cached = cached or token_count(usage, "prompt_cache_hit_tokens")  # DeepSeek's name
    return min(token_count(usage, "prompt_tokens"), cached)


def with_cached_tokens(usage: dict[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage with `prompt_tokens_details`, where only llama.cpp's `timings.cache_n` says what was cached.

    Args:
        usage: of the answer.
        answer: the completion or chunk that the usage is in.
    """
    timings = answer.get("timings")
    if "prompt_tokens_details" in usage or not isinstance(timings, dict) or "cache_n" not in timings:
        return usage
    return {**usage, "prompt_tokens_details": {"cached_tokens": token_count(timings, "cache_n")}}
