"""How many tokens a text has, by llama.cpp's /tokenize: a chunk of its streams may hold several. Pure."""

from __future__ import annotations

import json

from workernode.json_access import member
from workernode.strict_json import read_object


def tokenize_path(chat_path: str) -> str:
    """Return the path of /tokenize, which llama.cpp has beside /v1.

    Args:
        chat_path: path and query of chat completions.
    """
    base = chat_path.partition("?")[0].removesuffix("/chat/completions").removesuffix("/v1")
    return base.rstrip("/") + "/tokenize"


def tokenize_body(text: str) -> bytes:
    """Return what /tokenize is asked."""
    return json.dumps({"content": text}).encode()


def tokens_in(raw: bytes) -> int | None:
    """Return the number of tokens in an answer of /tokenize; None if it is none."""
    try:
        tokens = member(read_object(raw), "tokens")
    except ValueError:
        return None
    return len(tokens) if isinstance(tokens, list) else None
