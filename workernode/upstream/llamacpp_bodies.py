"""What llama.cpp's server answers, beside its chat completions, about a text. Pure."""

from __future__ import annotations

import json

from workernode.json_access import member


def path_beside(chat_path: str, name: str) -> str:
    """Return the path of an endpoint that llama.cpp has beside /v1.

    Args:
        chat_path: path and query of chat completions.
    """
    base = chat_path.partition("?")[0].removesuffix("/chat/completions").removesuffix("/v1")
    return f"{base.rstrip('/')}/{name}"


def tokenize_body(text: str) -> bytes:
    """Return what /tokenize is asked."""
    return json.dumps({"content": text}).encode()


def tokens_in(answer: object) -> int | None:
    """Return the number of tokens in an answer of /tokenize; None if it is none."""
    tokens = member(answer, "tokens")
    return len(tokens) if isinstance(tokens, list) else None


def prompt_in(answer: object) -> str | None:
    """Return the prompt in an answer of /apply-template; None if it is none."""
    prompt = member(answer, "prompt")
    return prompt if isinstance(prompt, str) else None
