"""What is billed of asking upstream, and who counted it (spec 6). Pure.

A stream that went on after a break has several parts, and each was an answer of its own to upstream: their figures are
added up. Of a part that broke, upstream's figures seldom came; then its chunks are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workernode.call_stats import CallStats

MOST_TOKENS = 10**9  # larger figures are mistakes


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens by the model's tokenizer, because upstream sent no usage (workernode/token_estimate.py)."""

    prompt: int
    completion: int = 0  # of a plain answer


def billed_usage(asked: CallStats, estimate: Estimate | None = None) -> tuple[dict[str, Any] | None, str]:
    """Return the figures that are billed, and their source: "upstream", "counted", "estimated" or "none".

    Args:
        estimate: of the task, for the parts without usage; None: their prompts are not in the figures.
    """
    parts = [(each.usage, each.text_chunks) for each in asked.broken]
    parts.append((asked.usage, asked.text_chunks or (estimate.completion if estimate else 0)))
    billed, before, source = [], 0, "upstream"
    for usage, tokens in parts:
        if usage is not None:
            billed.append(usage)
        elif tokens:
            source = "counted" if estimate is None else "estimated"
            prompt = {} if estimate is None else {"prompt_tokens": estimate.prompt + before}
            billed.append({**prompt, "completion_tokens": tokens})
        before += tokens  # the next part's prompt ends with them
    if not billed:
        return None, "none"
    return billed[0] if len(billed) == 1 else added(billed), source


def lacks_usage(asked: CallStats) -> bool:
    """Return whether upstream sent text without usage: a stream, or a part of one."""
    parts = [(each.usage, each.text_chunks) for each in asked.broken] + [(asked.usage, asked.text_chunks)]
    return any(usage is None and chunks for usage, chunks in parts)


def added(usages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of several usage objects, member by member; what is no number is the last one's."""
    total: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            before = total.get(name)
            if isinstance(value, Mapping):
                total[name] = added([before if isinstance(before, dict) else {}, dict(value)])
            elif isinstance(value, (int, float)) and isinstance(before, (int, float)):
                total[name] = before + value
            else:
                total[name] = value if value is not None else before
    counts = [total.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    prompt, completion, both = (each if isinstance(each, int) else None for each in counts)
    if prompt is not None and completion is not None and both is not None:
        total["total_tokens"] = max(both, prompt + completion)  # a part whose chunks were counted has no total
    return total


def token_count(usage: object, name: str) -> int:
    """Return one count of a usage object, or of an object in it; 0 where it is missing or absurd."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and 0 <= value < MOST_TOKENS else 0
