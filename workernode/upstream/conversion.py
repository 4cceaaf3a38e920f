"""A completion → the chunks of a stream, and back, for an upstream that answers in the other form (spec 6). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from workernode.strict_json import read_object
from workernode.upstream.chunks import Chunk, dump, finish_reason_of, read_chunk


def chunks_from_completion(answer: dict[str, Any], with_usage: bool) -> list[Chunk]:
    """Return the chunks that a plain completion amounts to, for an upstream that does not stream.

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
        content = {"index": index, "delta": delta, "finish_reason": None}
        if "logprobs" in choice:
            content["logprobs"] = choice["logprobs"]
        if delta or "logprobs" in choice:
            bodies.append({**shell, "choices": [content]})
        finish = finish_reason_of(choice) or "stop"
        bodies.append({**shell, "choices": [{"index": index, "delta": {}, "finish_reason": finish}]})
    if usage is not None and with_usage:
        bodies.append({**shell, "choices": [], "usage": usage})
    chunks = [chunk for body in bodies if (chunk := read_chunk(dump(body)))]
    if usage is not None and not with_usage:  # for the bill only
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
    return dump(answer)


def _add_choice(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index")
    index = index if isinstance(index, int) else 0
    whole = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    if finish_reason_of(part) is not None:
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
