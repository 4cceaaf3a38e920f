"""Tokens that upstream had in its cache, from usage objects of several shapes."""

from __future__ import annotations

from typing import Any

import pytest

from workernode.cached_tokens import cached_tokens, with_cached_tokens
from workernode.call_stats import CallStats
from workernode.strict_json import dumps
from workernode.upstream.answer import read_completion
from workernode.upstream.chunks import read_chunk

PLAIN = {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43}
LLAMA_CPP = {"usage": PLAIN, "timings": {"cache_n": 30, "prompt_n": 10}}


@pytest.mark.parametrize(
    ("usage", "cached"),
    [
        pytest.param(None, 0, id="no usage"),
        pytest.param(PLAIN, 0, id="no word of a cache"),
        pytest.param({**PLAIN, "prompt_tokens_details": {"cached_tokens": 30}}, 30, id="OpenAI, vLLM, llama.cpp"),
        pytest.param({**PLAIN, "prompt_cache_hit_tokens": 30}, 30, id="DeepSeek"),
        pytest.param({**PLAIN, "prompt_tokens_details": {"cached_tokens": 99}}, 40, id="more than the prompt has"),
        pytest.param({**PLAIN, "prompt_tokens_details": {"cached_tokens": -1}}, 0, id="negative"),
        pytest.param({**PLAIN, "prompt_tokens_details": {"cached_tokens": "30"}}, 0, id="a text"),
        pytest.param({**PLAIN, "prompt_tokens_details": None}, 0, id="null"),
    ],
)
def test_cached_tokens_are_a_part_of_the_prompt(usage: dict[str, Any] | None, cached: int) -> None:
    assert cached_tokens(usage) == cached


def test_where_only_the_timings_of_llama_cpp_tell_them_they_are_added_to_the_usage() -> None:
    assert cached_tokens(with_cached_tokens(PLAIN, LLAMA_CPP)) == 30
    known = {**PLAIN, "prompt_tokens_details": {"cached_tokens": 7}}
    assert with_cached_tokens(known, LLAMA_CPP) == known
    for timings in (None, [], {}, {"prompt_n": 10}):
        assert with_cached_tokens(PLAIN, {"timings": timings}) == PLAIN


def test_a_chunk_and_a_plain_answer_are_read_alike_and_passed_on_unchanged() -> None:
    raw = dumps({"object": "chat.completion.chunk", "choices": [], **LLAMA_CPP})
    chunk = read_chunk(raw)
    assert chunk is not None
    assert (cached_tokens(chunk.usage), chunk.raw) == (30, raw)
    stats = CallStats()
    message = {"role": "assistant", "content": "Yes."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    answer = dumps({"object": "chat.completion", "choices": choices, **LLAMA_CPP})
    passed_on, _ = read_completion(answer, stats, is_own_model=False)
    assert (cached_tokens(stats.usage), passed_on) == (30, answer)
