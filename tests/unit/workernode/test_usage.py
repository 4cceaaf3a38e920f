"""What is billed of asking upstream."""

from __future__ import annotations

from typing import Any

import pytest

from workernode.call_stats import BrokenPart, CallStats
from workernode.usage import Estimate, added, billed_usage, lacks_usage


def part(usage: dict[str, Any] | None = None, chunks: int = 0) -> BrokenPart:
    return BrokenPart("stream_cut", 1.0, chunks, usage=usage, text_chunks=chunks)


WHOLE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


@pytest.mark.parametrize(
    ("broken", "usage", "chunks", "billed", "source"),
    [
        ((), None, 0, None, "none"),
        ((), WHOLE, 3, WHOLE, "upstream"),
        ((), None, 4, {"completion_tokens": 4}, "counted"),
        ((part(chunks=2),), WHOLE, 3, {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}, "counted"),
        ((part(WHOLE, 3),), WHOLE, 3, {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}, "upstream"),
        ((part(),), WHOLE, 3, WHOLE, "upstream"),
        ((part(chunks=2), part(chunks=1)), None, 0, {"completion_tokens": 3}, "counted"),
    ],
)
def test_the_parts_of_a_stream_are_billed_together(
    broken: tuple[BrokenPart, ...], usage: dict[str, Any] | None, chunks: int, billed: Any, source: str
) -> None:
    assert billed_usage(CallStats(usage=usage, text_chunks=chunks, broken=broken)) == (billed, source)


@pytest.mark.parametrize(
    ("broken", "usage", "chunks", "completion", "billed", "source"),
    [
        ((), WHOLE, 3, 0, WHOLE, "upstream"),
        ((), None, 4, 0, {"prompt_tokens": 7, "completion_tokens": 4}, "estimated"),
        ((), None, 0, 9, {"prompt_tokens": 7, "completion_tokens": 9}, "estimated"),
        ((), None, 0, 0, None, "none"),  # nothing came: upstream has billed nothing
        # The next part's prompt ends with the text of the one before.
        ((part(chunks=2),), None, 4, 0, {"prompt_tokens": 7 + 9, "completion_tokens": 6}, "estimated"),
        ((part(chunks=2),), {"prompt_tokens": 9}, 3, 0, {"prompt_tokens": 16, "completion_tokens": 2}, "estimated"),
    ],
)
def test_with_an_estimate_the_prompts_of_parts_without_usage_are_billed_too(
    broken: tuple[BrokenPart, ...], usage: dict[str, Any] | None, chunks: int, completion: int, billed: Any, source: str
) -> None:
    asked = CallStats(usage=usage, text_chunks=chunks, broken=broken)
    assert billed_usage(asked, Estimate(7, completion)) == (billed, source)


def test_only_text_without_usage_lacks_it() -> None:
    assert lacks_usage(CallStats(text_chunks=1))
    assert lacks_usage(CallStats(usage=WHOLE, broken=(part(chunks=1),)))
    assert not lacks_usage(CallStats(usage=WHOLE, text_chunks=1))
    assert not lacks_usage(CallStats())


def test_details_are_added_up_too() -> None:
    one = {"prompt_tokens_details": {"cached_tokens": 1, "text": "x"}, "cost": 0.5}
    assert added([one, one]) == {"prompt_tokens_details": {"cached_tokens": 2, "text": "x"}, "cost": 1.0}
    assert added([one, {"prompt_tokens_details": None}]) == one
