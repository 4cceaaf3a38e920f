"""Streams as the tests of this folder ask for them, and what their clients got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.gateway import Answer
from tests.unit.workernode.attempt.bench import LONG, Bench
from workernode.protocol import Outcome

STYLES = {"llamacpp": "llamacpp", "vllm": "vllm", "mistral": "prefix", "deepseek": "prefix"}
Make = Callable[..., Bench]


def ask(bench: Bench, seconds: float = LONG, **chat: Any) -> tuple[Outcome, Answer]:
    chat = {"messages": [{"role": "user", "content": "What is the sea like?"}], **chat}
    return bench.run(stream=True, seconds=seconds, **chat)


def chunks_of(answer: Answer) -> list[dict[str, Any]]:
    return answer.wait().chunks


def text_of(answer: Answer) -> str:
    choices = [choice for chunk in chunks_of(answer) for choice in chunk.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def assert_one_stream(answer: Answer, text: str) -> None:
    """What the client got reads as one stream with this text."""
    chunks = chunks_of(answer)
    assert (answer.faults, answer.ends, answer.error, text_of(answer)) == ([], 1, None, text)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len([choice for choice in choices if choice["delta"].get("role")]) == 1
    assert len([choice for choice in choices if choice["finish_reason"]]) == 1
