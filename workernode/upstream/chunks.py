"""One chunk of a stream: its bytes, and what they mean. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from workernode.cached_tokens import with_cached_tokens
from workernode.strict_json import dumps, read_object
from workernode.upstream.dialects import ErrorBody, error_in_answer

# What stands in `finish_reason` where others have null: Ollama, SGLang and LocalAI send "" (ollama#4357, sglang#3912,
# LocalAI#1886), DashScope's own API sends "null".
NOT_FINISHED = ("", "null")
# Members of a delta that hold text beside the usual ones: OpenAI's, and `reasoning_details` of OpenRouter and MiniMax.
_RARE_TEXTS = ("refusal", "function_call", "audio", "reasoning_details")


class Chunk(NamedTuple):  # made for each chunk of each stream: a frozen dataclass takes five times as long to make
    """One chunk of a stream."""

    raw: bytes  # one line of JSON
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    bare_usage: bool = False  # carries nothing but usage: hidden from a client that did not ask for it
    has_text: bool = False  # brings the client text, reasoning, a refusal or a tool call
    error: ErrorBody | None = None  # an error in the place of a chunk
    model: str | None = None  # the model that answers
    choices: tuple[tuple[int, str | None], ...] = ()  # index and finish_reason of each choice in it
    is_completion: bool = False  # no chunk but a whole completion: its choices have a `message` and no `delta`


def has_figures(usage: object) -> bool:
    """Return whether upstream's usage has any count. `{}` and nulls are none."""
    return isinstance(usage, dict) and any(type(value) in (int, float) and value >= 0 for value in usage.values())


def read_chunk(raw: bytes, event: str = "") -> Chunk | None:
    """Return the chunk that an event of a stream holds; None if it is no chunk but keeps the connection alive.

    Args:
        raw: the event's data.
        event: the event's name; "" without.

    Raises:
        ValueError: the data is not a JSON object. The text says why.
    """
    value = read_object(raw)
    if b"\n" in raw or b"\r" in raw:  # a newline inside `data` breaks the client's event stream (spec 1.2)
        raw = dump(value)
    choices = value.get("choices")
    usage = value.get("usage")
    usage = with_cached_tokens(usage, value) if isinstance(usage, dict) else None
    if value.get("error"):  # also beside choices: OpenRouter ends a stream with both
        return Chunk(raw, usage, error=error_in_answer({**value, "choices": None}, event))
    if not isinstance(choices, list) or not choices:
        return _without_choices(raw, value, usage, event)
    finish, has_text = None, False
    states = []
    for choice in choices:
        if isinstance(choice, dict):
            if choice.get("error") and isinstance(choice["error"], dict):
                return Chunk(raw, usage, error=error_in_answer(value, event))
            reason = finish_reason_of(choice)
            finish = reason or finish
            index = choice.get("index")
            states.append((index if isinstance(index, int) else 0, reason))
            delta = choice.get("delta")
            if delta is None and isinstance(choice.get("message"), dict):
                return Chunk(raw, is_completion=True)
            has_text = has_text or (isinstance(delta, dict) and _has_text(delta))
    return Chunk(raw, usage, finish, False, has_text, None, _model_of(value), tuple(states))


def finish_reason_of(choice: dict[str, Any]) -> str | None:
    """Return why a choice ended; None while it has not."""
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason not in NOT_FINISHED else None


def dump(value: dict[str, Any]) -> bytes:
    """Return the object as one line of JSON.

    Raises:
        ValueError: it holds a number that has no JSON form.
    """
    try:
        return dumps(value)
    except ValueError:
        raise ValueError("it holds a number that is too large") from None


def _without_choices(raw: bytes, value: dict[str, Any], usage: dict[str, Any] | None, event: str) -> Chunk | None:
    error = error_in_answer(value, event)
    if error is not None:
        return Chunk(raw, usage, error=error)
    if usage is not None:
        return Chunk(raw, usage, bare_usage=True, model=_model_of(value))
    # Azure's content filter results come as a chunk with an empty list of choices. Any other object is no chunk.
    is_chunk = isinstance(value.get("choices"), list) or value.get("object") == "chat.completion.chunk"
    return Chunk(raw, model=_model_of(value)) if is_chunk else None


def _has_text(delta: dict[str, Any]) -> bool:
    return bool(
        delta.get("content") or delta.get("tool_calls") or delta.get("reasoning_content") or delta.get("reasoning")
    ) or any(delta.get(name) for name in _RARE_TEXTS)


def _model_of(value: dict[str, Any]) -> str | None:
    model = value.get("model")
    return model if isinstance(model, str) else None
