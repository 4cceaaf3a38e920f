"""A llama.cpp that gives one answer, token by token, and joins the tokens of a character in one chunk: a script.

A token may be a part of a character. llama.cpp sends no part of one, so that the chunk behind it has the text of all of
them; and at the limit of tokens, what is left of a character is not sent at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.support.upstream import Exchange
from tests.support.wire import Request


class TokenModel:
    """Pass an object to `FakeUpstream.script`; `tokenize` and `apply_template` to `FakeUpstream.pages`.

    Attributes:
        cuts: after how many chunks with text the first call breaks off, the second ...; the others are answered.
        limits: the limit of tokens of each call.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._tokens = tokens
        self.cuts: list[int] = []
        self.limits: list[int | None] = []

    def chunks(self, limit: int | None, start: int = 0) -> list[str]:
        """The texts of the chunks of a whole answer, from a token on."""
        return [text for text, _ in self._chunks(start, limit)]

    def finish(self, limit: int | None, start: int = 0) -> tuple[str, int]:
        """Why such an answer ends, and how many tokens it has."""
        left = len(self._tokens) - start
        return ("length", limit) if limit is not None and limit <= left else ("stop", left)

    def tokenize(self, request: Request) -> tuple[int, bytes]:
        """/tokenize."""
        text = json.loads(request.body)["content"]
        return 200, json.dumps({"tokens": list(range(self._count(text)))}).encode()

    @staticmethod
    def apply_template(request: Request) -> tuple[int, bytes]:
        """/apply-template."""
        texts = [f"<{each['role']}>{each['content']}" for each in json.loads(request.body)["messages"]]
        return 200, json.dumps({"prompt": "".join(texts)}).encode()

    def __call__(self, exchange: Exchange) -> Mapping[str, Any]:
        body = exchange.json
        last = body["messages"][-1]
        start = self._count(last["content"]) if last["role"] == "assistant" else 0
        limit = body.get("max_tokens")
        self.limits.append(limit)
        texts = self.chunks(limit, start)
        call = len(self.limits)
        if call <= len(self.cuts):
            texts = texts[: self.cuts[call - 1]]
        deltas = [{"role": "assistant", "content": None}, *({"content": text} for text in texts)]
        lines = [_chunk(call, [{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
        if call > len(self.cuts):
            reason, tokens = self.finish(limit, start)
            lines.append(_chunk(call, [{"index": 0, "delta": {}, "finish_reason": reason}]))
            usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
            lines += [_chunk(call, [], usage=usage), "data: [DONE]\n\n"]
        return {"raw": "".join(lines), "content_type": "text/event-stream"}

    def _chunks(self, start: int, limit: int | None) -> Iterator[tuple[str, int]]:
        end = len(self._tokens) if limit is None else min(len(self._tokens), start + limit)
        held = b""
        for place in range(start, end):
            held += self._tokens[place]
            try:
                text = held.decode()
            except UnicodeDecodeError:
                continue
            held = b""
            yield text, place + 1

    def _count(self, text: str) -> int:
        seen = ""
        for more, tokens in self._chunks(0, None):
            if seen == text:
                break
            seen += more
            if seen == text:
                return tokens
        assert seen == text == "", f"{text!r} is not what the model has said"
        return 0


def _chunk(call: int, choices: list[Any], **members: Any) -> str:
    head = {"id": f"chatcmpl-{call}", "object": "chat.completion.chunk", "created": call, "model": "m"}
    return f"data: {json.dumps({**head, 'choices': choices, **members})}\n\n"
