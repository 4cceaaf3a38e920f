"""The client's body → what upstream is asked, and upstream's answer → what the client asked for (spec 6). Pure.

The rule: what the client did not ask for does not reach it; all else is passed on byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workernode.strict_json import dumps, read_object


class UnsendableBody(ValueError):
    """The client's body can be read but not be written as JSON again (a number too large, say)."""


def for_upstream(data: dict[str, Any], *, stream: bool, model: str | None, ask_usage: bool = True) -> bytes:
    """Return the body that upstream gets: the client's, with `model`, `stream` and the wish for usage set.

    Args:
        data: the client's chat request.
        stream: how the gateway waits (`.stream`, which rules over `data.stream`).
        model: UPSTREAM_MODEL, or None to leave the client's.
        ask_usage: False for an upstream that rejects `stream_options`.

    Raises:
        UnsendableBody: it has no JSON form.
    """
    body = dict(data)
    if model is not None:
        body["model"] = model
    body["stream"] = stream
    options = body.pop("stream_options", None)  # upstreams refuse it on a plain request
    if stream and ask_usage:
        kept = options if isinstance(options, dict) else {}
        body["stream_options"] = {**kept, "include_usage": True}
    try:
        return dumps(body)
    except (ValueError, RecursionError) as exc:
        raise UnsendableBody(f"the request cannot be written as JSON: {exc}") from None


def wants_usage(data: dict[str, Any]) -> bool:
    """True if the client of a stream asked for the usage chunk itself."""
    options = data.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a stream: its bytes, and what they say."""

    raw: bytes  # one line of JSON
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    bare_usage: bool = False  # carries nothing but usage: hidden from a client that did not ask for it
    has_text: bool = False  # brings the client its first words
    error: dict[str, Any] | None = None  # an in-band error instead of a chunk: {"message", "type", ...}
    model: str | None = None  # the model that answers


def read_chunk(raw: bytes) -> Chunk:
    """Return what one event of a stream says.

    Raises:
        ValueError: it is not a JSON object; why, in words.
    """
    value = read_object(raw)
    if b"\n" in raw or b"\r" in raw:  # a newline inside `data` breaks the client's event stream (spec 1.2)
        raw = _dump(value)
    error = value.get("error")
    if error:
        return Chunk(raw, error=error if isinstance(error, dict) else {"message": str(error)})
    usage = value.get("usage")
    choices = value.get("choices")
    finish, text = None, False
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            reason = choice.get("finish_reason")
            finish = reason if isinstance(reason, str) else finish
            delta = choice.get("delta")
            text = text or (isinstance(delta, dict) and bool(delta.get("content") or delta.get("tool_calls")))
    usage = usage if isinstance(usage, dict) else None
    model = value.get("model")
    return Chunk(
        raw, usage, finish, usage is not None and choices == [], text, model=model if isinstance(model, str) else None
    )


def chunks_from_completion(answer: dict[str, Any], with_usage: bool) -> list[Chunk]:
    """Return the chunks that say what a plain completion says, for an upstream that would not stream.

    Args:
        answer: a `chat.completion` object.
        with_usage: the client asked for a usage chunk.

    Raises:
        ValueError: it holds a number that has no JSON form.
    """
    shell = {key: value for key, value in answer.items() if key not in ("object", "choices", "usage")}
    shell["object"] = "chat.completion.chunk"
    usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else None
    bodies = []
    for place, choice in enumerate(_objects(answer.get("choices"))):
        message = choice.get("message")
        delta = dict(message) if isinstance(message, dict) else {}
        if delta.get("tool_calls"):  # in a stream each call carries its place
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(_objects(delta["tool_calls"]))]
        index = choice.get("index", place)
        said = {"index": index, "delta": delta, "finish_reason": None}
        if "logprobs" in choice:
            said["logprobs"] = choice["logprobs"]
        bodies.append({**shell, "choices": [said]})
        finish = choice.get("finish_reason") or "stop"
        bodies.append({**shell, "choices": [{"index": index, "delta": {}, "finish_reason": finish}]})
    chunks = [read_chunk(_dump(body)) for body in bodies]
    if usage is not None and with_usage:
        chunks.append(read_chunk(_dump({**shell, "choices": [], "usage": usage})))
    elif usage is not None:  # for the bill only
        chunks.append(Chunk(b"", usage, bare_usage=True))
    return chunks


def completion_from_chunks(raws: Iterable[bytes]) -> bytes:
    """Return the completion that the chunks of a stream add up to, for an upstream that streams to a plain request.

    Args:
        raws: each a `chat.completion.chunk`, in order.

    Raises:
        ValueError: one of them is not a JSON object, or there is none, or a number in them has no JSON form.
    """
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for raw in raws:
        chunk = read_object(raw)
        for key, value in chunk.items():
            if key not in ("choices", "usage", "object") and (key not in answer or answer[key] is None):
                answer[key] = value
        usage = chunk.get("usage") or usage
        for choice in _objects(chunk.get("choices")):
            _add_choice(choices, choice)
    if not answer and not choices:
        raise ValueError("it is an event stream without a chunk")
    answer["object"] = "chat.completion"
    answer["choices"] = [choices[index] for index in sorted(choices)]
    if usage is not None:
        answer["usage"] = usage
    return _dump(answer)


def _add_choice(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index")
    index = index if isinstance(index, int) else 0
    whole = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    if part.get("finish_reason") is not None:
        whole["finish_reason"] = part["finish_reason"]
    if isinstance(part.get("logprobs"), dict):
        _add(whole.setdefault("logprobs", {}), part["logprobs"])
    delta = part.get("delta")
    if isinstance(delta, dict):
        _add(whole["message"], delta)


def _add(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """Put the parts of a delta behind what is there: strings are joined, calls matched by their place."""
    for key, value in delta.items():
        there = whole.get(key)
        if key == "tool_calls" and isinstance(value, list):
            whole[key] = _add_calls(_objects(there), _objects(value))
        elif key == "role" or there is None:
            whole[key] = value
        elif type(there) is type(value) and isinstance(value, (str, list)):
            whole[key] = there + value
        elif isinstance(there, dict) and isinstance(value, dict):
            _add(there, value)
        elif value is not None:
            whole[key] = value


def _add_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for part in parts:
        place = part.get("index")
        place = place if isinstance(place, int) and 0 <= place <= len(calls) else len(calls)
        if place == len(calls):
            calls.append({key: value for key, value in part.items() if key != "index"})
            continue
        call = calls[place]
        function = part.get("function")
        if isinstance(function, dict):
            there = call.get("function")
            call["function"] = there if isinstance(there, dict) else {}
            _add(call["function"], function)
        for key in ("id", "type"):
            if part.get(key) and not call.get(key):
                call[key] = part[key]
    return calls


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list; none in anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _dump(value: dict[str, Any]) -> bytes:
    try:
        return dumps(value)
    except ValueError:
        raise ValueError("it holds a number that is too large") from None
