"""Paths and answers of llama.cpp's endpoints beside /v1."""

from __future__ import annotations

import pytest

from workernode.upstream.llamacpp_bodies import path_beside, prompt_in, tokens_in


@pytest.mark.parametrize(
    ("chat", "path"),
    [
        ("/v1/chat/completions", "/tokenize"),
        ("/v1/chat/completions?a=b", "/tokenize"),
        ("/chat/completions", "/tokenize"),
        ("/models/m/v1/chat/completions", "/models/m/tokenize"),
        ("/", "/tokenize"),
    ],
)
def test_they_stand_beside_v1(chat: str, path: str) -> None:
    assert path_beside(chat, "tokenize") == path


def test_what_has_another_shape_is_no_answer() -> None:
    assert (tokens_in({"tokens": [1, 2]}), tokens_in({"tokens": 2}), tokens_in(None)) == (2, None, None)
    assert (prompt_in({"prompt": "a"}), prompt_in({"prompt": 2}), prompt_in([])) == ("a", None, None)
