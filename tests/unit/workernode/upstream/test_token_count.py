"""The path and the answer of llama.cpp's /tokenize."""

from __future__ import annotations

import pytest

from workernode.upstream.token_count import tokenize_path, tokens_in


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
def test_it_stands_beside_v1(chat: str, path: str) -> None:
    assert tokenize_path(chat) == path


def test_what_is_no_list_of_tokens_is_no_count() -> None:
    assert (tokens_in(b'{"tokens": [1, 2]}'), tokens_in(b'{"tokens": 2}'), tokens_in(b"\xff")) == (2, None, None)
