"""Estimates the tokens of a task for which upstream sent no usage, with the model's own tokenizer (TOKENIZER).

The only module that imports `tokenizers`, the extra `tokenizer`. The tokenizer is loaded when the first task needs it,
and counts on a thread of its own, without Python's global lock: the other tasks of the process run meanwhile.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import cached_property
from typing import Any, Protocol

from workernode.net.waiting import Event
from workernode.strict_json import dumps, read_object
from workernode.usage import Estimate

log = logging.getLogger(__name__)

# A task whose answer has left waits so long for its estimate, and then has none.
PATIENCE = 5.0  # seconds
MOST_CHARACTERS = 400_000  # of a text that are counted, in some 0.3 s; what follows is estimated from them
# What chat templates add, as OpenAI's cookbook counts it ("How to count tokens with tiktoken").
TOKENS_PER_MESSAGE = 4
TOKENS_OF_THE_REPLY = 3


class Tokenizer(Protocol):
    """What is used of tokenizers.Tokenizer."""

    def encode_batch_fast(self, input: list[str], *, add_special_tokens: bool) -> list[Any]:
        """Return an encoding of each text; its length is the number of tokens."""


def load_tokenizer(path: str) -> Tokenizer:
    """Return the tokenizer that a tokenizer.json describes.

    Raises:
        ImportError: the extra is not installed.
        Exception: the file cannot be read, or describes no tokenizer (the library raises the base class).
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no threads of its own: the other cores have their tasks
    from tokenizers import Tokenizer as Library

    loaded: Tokenizer = Library.from_file(path)
    return loaded


class TokenEstimator:
    """Estimates prompts and answers. Shared by the tasks of a worker.

    Args:
        path: of the tokenizer.json.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._has_failed = False

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._path)

    @cached_property
    def _thread(self) -> Executor:
        from concurrent.futures import ThreadPoolExecutor  # nodes without TOKENIZER do not load it

        return ThreadPoolExecutor(1, "tokenizer")

    def estimate(self, request: Mapping[str, Any], answer: bytes | None) -> Estimate | None:
        """Return the tokens of a task; None if the tokenizer cannot be used or is too slow, or if the
        answer cannot be read. Waits for a thread.

        Args:
            request: the chat request, whatever its shape.
            answer: the plain answer, as upstream sent it.
        """
        if self._has_failed:
            return None
        until = time.monotonic() + PATIENCE
        done = Event()
        counted = self._thread.submit(self._estimate, request, answer)
        counted.add_done_callback(lambda _: done.set())
        if not done.wait(until):
            counted.cancel()
            return None
        return counted.result() if counted.exception() is None else None

    def _estimate(self, request: Mapping[str, Any], answer: bytes | None) -> Estimate | None:
        if not self._can_load():
            return None
        messages = [each for each in _items(request.get("messages")) if isinstance(each, dict)]
        texts = [text for message in messages for text in _texts_of(message)]
        texts += [dumps(tool).decode() for tool in _items(request.get("tools"))]
        prompt = self._count("\n".join(texts)) + len(messages) * TOKENS_PER_MESSAGE + TOKENS_OF_THE_REPLY
        choices = _items(read_object(answer).get("choices")) if answer is not None else []
        answers = [choice.get("message") for choice in choices if isinstance(choice, dict)]
        replies = [text for message in answers if isinstance(message, dict) for text in _texts_of(message)]
        return Estimate(prompt, self._count("\n".join(replies)))

    def _can_load(self) -> bool:
        """Whether there is a tokenizer; why not is logged once."""
        try:
            return not self._has_failed and self._tokenizer is not None
        except Exception as error:
            self._has_failed = True
            about = {"event": "tokenizer_failed"}
            log.warning("TOKENIZER cannot be used, no tokens are estimated: %s", str(error)[:300], extra=about)
            return False

    def _count(self, text: str) -> int:
        start = text[:MOST_CHARACTERS].encode(errors="replace").decode()  # a lone surrogate is no text for the library
        if not start:
            return 0
        [encoding] = self._tokenizer.encode_batch_fast([start], add_special_tokens=False)
        return len(encoding) * len(text) // len(start)


def _texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the model reads or writes of a message: texts, and calls of tools. Images and sound are left out."""
    content = message.get("content")
    parts = [content, message.get("reasoning_content")]
    parts += [part.get("text") for part in _items(content) if isinstance(part, dict)]
    for call in _items(message.get("tool_calls")):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts += [function.get("name"), function.get("arguments")]
    yield from (part for part in parts if isinstance(part, str))


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
