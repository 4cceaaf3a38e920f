"""The text of a stream that was cut equals the unbroken one, wherever it was cut, on the embedded model.

Not a part of the suite, which has a small part of it (test_resume.py): 20 answers take many minutes. By hand:

    python -m tests.integration.resume_property            # the model was killed, and reads the whole prompt again
    python -m tests.integration.resume_property --warm     # it lives
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.integration.test_embedded import Embedded
from tests.support.gateway import FakeGateway
from tests.support.upstream import Exchange, FakeUpstream
from tests.support.wire import Request
from tests.unit.workernode.attempt.bench import Bench

PROMPTS = (
    "Write a sentence about the sea with many emojis 🌊🐟🚢.",
    "Zähle auf Deutsch von eins bis zehn.",
    "请用中文介绍一下北京。",
    "Write a Python function that adds two numbers.",
    "What is the capital of France?",
    "Напиши предложение о зиме.",
    "List three colours, one on each line.",
    "Say a short sentence about rivers.",
    "1, 1, 2, 3, 5, 8,",
    "日本の首都はどこですか。",
    "Tell me a story about a cat.",
    "Repeat: 🙂 🙃 🙂 🙃 🙂",
    "What is 12 times 12?",
    "Écris une phrase sur l'été à Paris.",
    "Give me a JSON object with a name and an age.",
    "मुझे भारत के बारे में बताओ।",
    "Who wrote Hamlet?",
    "Write a haiku about snow.",
    "Name four animals.",
    "مرحبا، كيف حالك؟",
)
TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class Cut:
    """One stream that was cut."""

    prompt: str
    after: int  # chunks with text
    unbroken: str
    joined: str
    tokens: tuple[int, int]  # of both, by usage
    resumes: int

    @property
    def is_same(self) -> bool:
        return self.joined == self.unbroken and len(set(self.tokens)) == 1 and self.resumes == 1


class CutModel:
    """A script for FakeUpstream: the first call gets the beginning of a recorded answer, the second the real model."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.events: list[bytes] = []
        self._beginning: list[bytes] | None = None

    def record(self, data: Mapping[str, Any]) -> tuple[str, int]:
        """Record the unbroken answer; return its text, and how many tokens it has."""
        body = self._ask({**data, "stream": True, "stream_options": {"include_usage": True}})
        self.events = [event + b"\n\n" for event in body.split(b"\n\n") if event.startswith(b"data: {")]
        usage = json.loads(self.events[-1].removeprefix(b"data: "))["usage"]
        return "".join(map(_text, self.events)), usage["completion_tokens"]

    def beside(self, request: Request) -> tuple[int, bytes]:
        """What the real model answers at another path."""
        response = requests.post(self._url + request.path, data=request.body, timeout=TIMEOUT)
        return response.status_code, response.content

    def pages(self) -> dict[str, Callable[[Request], tuple[int, bytes]]]:
        """For FakeUpstream: what a stream that goes on asks beside the chat."""
        return {"/tokenize": self.beside, "/apply-template": self.beside}

    def cuts(self) -> Iterator[int]:
        """Let the next call break after each chunk with text in turn; yields the number of these chunks."""
        for place, event in enumerate(self.events):
            if place == 0 or _text(event):
                self._beginning = self.events[: place + 1]
                yield sum(bool(_text(each)) for each in self._beginning)

    def __call__(self, exchange: Exchange) -> Mapping[str, Any]:
        beginning, self._beginning = self._beginning, None
        raw = b"".join(beginning) if beginning is not None else self._ask(exchange.json)
        return {"raw": raw, "content_type": "text/event-stream"}

    def _ask(self, data: Mapping[str, Any]) -> bytes:
        response = requests.post(f"{self._url}/v1/chat/completions", json=data, timeout=TIMEOUT)
        response.raise_for_status()
        return response.content


def _text(event: bytes) -> str:
    choices = json.loads(event.removeprefix(b"data: "))["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def cut_everywhere(bench: Bench, model: CutModel, prompt: str, tokens: int, *, is_cold: bool) -> Iterator[Cut]:
    """Cut the answer after each of its chunks in turn.

    Args:
        is_cold: the model reads the whole prompt again, as after it was killed; else it may know it still.
    """
    data = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "seed": 1, "max_tokens": tokens}
    data["cache_prompt"] = not is_cold
    unbroken, total = model.record(data)
    for after in model.cuts():
        outcome, answer = bench.run(stream=True, seconds=TIMEOUT, **data)
        choices = [choice for chunk in answer.wait().chunks for choice in chunk.get("choices", [])]
        joined = "".join(choice["delta"].get("content") or "" for choice in choices)
        # At the limit of tokens the node knows that nothing is missing, and does not ask.
        is_at_limit = outcome.attempts == 1 and choices[-1]["finish_reason"] == "length"
        yield Cut(prompt, after, unbroken, joined, (total, outcome.completion_tokens), outcome.resumes + is_at_limit)


def main() -> None:
    """Run the property and print what differs. The exit code is 1 if anything does."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=len(PROMPTS))
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="the number of the first answer")
    parser.add_argument("--warm", action="store_true", help="the model lives and may know the prompt still")
    options = parser.parse_args()
    server = Embedded(Path(tempfile.mkdtemp()) / "log", "--server", "--parallel", "1", "--ctx-size", "2048")
    try:
        server.wait_output("serving gemma3-270m at")
        model = CutModel(f"http://127.0.0.1:{server.port}")
        with closing(FakeUpstream()) as upstream, closing(FakeGateway()) as gateway:
            upstream.script(model)
            upstream.pages = model.pages()
            bench = Bench(upstream, gateway, STREAM_RESUME="llamacpp")
            cuts = same = 0
            for prompt in PROMPTS[options.first :][: options.answers]:
                for cut in cut_everywhere(bench, model, prompt, options.tokens, is_cold=not options.warm):
                    cuts, same = cuts + 1, same + cut.is_same
                    if not cut.is_same:
                        print(cut, flush=True)
                print(f"{prompt!r}: {same} of {cuts} so far", flush=True)
            bench.close()
            print(f"{same} of {cuts} cuts gave the unbroken text")
            if same < cuts:
                sys.exit(1)
    finally:
        server.close()


if __name__ == "__main__":
    main()
