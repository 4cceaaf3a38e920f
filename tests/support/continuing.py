"""A model that continues a text, as llama.cpp, vLLM, Mistral and DeepSeek do it: a script for FakeUpstream.

It always gives the same answer, token by token. Asked with a part of the answer, in the form that the server takes, it
goes on behind that part. It refuses what the real servers refuse, and breaks off where a test wants it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.upstream import Exchange

TOKENS = ("The", " sea", " is", " blue", ",", " and", " die", " Wellen", " sind", " weiß", " 🌊", ".")
Directive = Mapping[str, Any]


@dataclass
class Break:
    """Where one call breaks off, and how."""

    after: int  # chunks with text of this call
    # "end" of the body, "reset", an "error" or a "refusal" as an event; "wait": a minute's silence; "silent": that
    # before the answer.
    how: str = "end"


@dataclass
class ContinuingModel:
    """A script: pass an object to `FakeUpstream.script`.

    Attributes:
        breaks: of the first call, the second ...; None or none: the call is answered to the end.
        bodies: what was asked, call by call.
    """

    server: str = "llamacpp"  # "llamacpp", "vllm", "mistral", "deepseek"
    tokens: Sequence[str] = TOKENS
    breaks: list[Break | None] = field(default_factory=list)
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda chunk: chunk
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def __call__(self, exchange: Exchange) -> Directive:
        body = exchange.json
        self.bodies.append(body)
        refusal = REFUSALS[self.server](exchange, body)
        if refusal:
            return {"status": 422 if refusal == EXTRA else 400, "err_type": "invalid_request_error", "err_msg": refusal}
        last = body["messages"][-1]
        so_far = last["content"] if last["role"] == "assistant" and self._continues(body) else ""
        call = len(self.bodies)
        broken = self.breaks[call - 1] if call <= len(self.breaks) else None
        return self._answer(body, so_far, call, broken)

    def _continues(self, body: dict[str, Any]) -> bool:
        """vLLM begins a new answer behind a message of the assistant, if nobody says otherwise."""
        return self.server != "vllm" or body.get("continue_final_message") is True

    def _answer(self, body: dict[str, Any], so_far: str, call: int, broken: Break | None) -> Directive:
        tokens = self._rest(so_far)
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or len(tokens)
        finish = "length" if limit < len(tokens) else "stop"
        tokens = tokens[:limit]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if self.server == "mistral" and so_far:
            deltas.append({"content": so_far})
        deltas += [{"content": token} for token in (tokens if broken is None else tokens[: broken.after])]
        chunks = [self._chunk(call, delta) for delta in deltas]
        if broken is None:
            usage = {"prompt_tokens": 10 + len(so_far), "completion_tokens": len(tokens)}
            chunks.append(self._chunk(call, {}, finish))
            usage["total_tokens"] = sum(usage.values())
            chunks.append({**self._chunk(call, {}), "choices": [], "usage": usage})
        pieces = [f"data: {json.dumps(self.change(chunk))}\n\n" for chunk in chunks]
        if broken is None:
            return {"raw": [*pieces, "data: [DONE]\n\n"], "content_type": "text/event-stream"}
        if broken.how == "silent":
            return {"latency_ms": 60_000}
        if broken.how == "wait":
            return {"raw": ["".join(pieces), ":\n\n"], "chunk_ms": 60_000, "content_type": "text/event-stream"}
        if broken.how in ("error", "refusal"):
            status = {"error": 500, "refusal": 400}[broken.how]
            error = {"message": "it broke", "type": "server_error" if status == 500 else "invalid_request_error"}
            pieces.append(f"data: {json.dumps({'error': {**error, 'code': status}})}\n\n")
        reset = {"cut_after": len("".join(pieces).encode())} if broken.how == "reset" else {}
        return {"raw": pieces, "content_type": "text/event-stream", **reset}

    def _rest(self, so_far: str) -> list[str]:
        """The tokens behind a text, which ends where a token ends."""
        rest = list(self.tokens)
        while so_far:
            token = rest.pop(0)
            assert so_far.startswith(token), f"{so_far!r} is not what the model answers"
            so_far = so_far[len(token) :]
        return rest

    @staticmethod
    def _chunk(call: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{call}",
            "object": "chat.completion.chunk",
            "created": call,
            "model": f"served-{call}",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }


EXTRA = "Extra inputs are not permitted"
MISTRAL_TAKES = {
    *("model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "random_seed"),
    *("n", "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "safe_prompt"),
}


def _llamacpp(_: Exchange, body: dict[str, Any]) -> str:
    if [each["role"] for each in body["messages"][-2:]] == ["assistant"] * 2:
        return "Cannot have 2 or more assistant messages at the end of the list."
    kwargs = body.get("chat_template_kwargs") or {}
    if body["messages"][-1]["role"] == "assistant" and kwargs.get("enable_thinking"):
        return "Assistant response prefill is incompatible with enable_thinking."
    return ""


def _vllm(_: Exchange, body: dict[str, Any]) -> str:
    if body.get("continue_final_message") and body.get("add_generation_prompt", True):
        return "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
    if body.get("continue_final_message") and body["messages"][-1]["role"] != "assistant":
        return "continue_final_message is set but the final message is not of the assistant."
    return ""


def _mistral(_: Exchange, body: dict[str, Any]) -> str:
    last = body["messages"][-1]
    if set(body) - MISTRAL_TAKES or set(last) - {"role", "content", "prefix", "tool_calls"}:
        return EXTRA
    if last["role"] == "assistant" and last.get("prefix") is not True:
        return "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
    return ""


def _deepseek(exchange: Exchange, body: dict[str, Any]) -> str:
    last = body["messages"][-1]
    is_beta = exchange.path.startswith("/beta/")
    if last["role"] == "assistant" and not (is_beta and last.get("prefix") is True):
        return "The last message must be a user message, or an assistant message with prefix mode on."
    return ""


REFUSALS = {"llamacpp": _llamacpp, "vllm": _vllm, "mistral": _mistral, "deepseek": _deepseek}
