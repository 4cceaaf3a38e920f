"""A completion as chunks, and chunks as a completion: nothing is lost (spec 6)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.strict_json import read_object
from workernode.upstream.conversion import chunks_from_completion, completion_from_chunks


def text_of(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


# --- a completion as chunks ---

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "m",
    "system_fingerprint": "fp",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hällo", "refusal": None},
            "logprobs": {"content": [{"token": "h"}]},
            "finish_reason": "stop",
        },
        {
            "index": 1,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            "finish_reason": "tool_calls",
        },
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def test_a_completion_becomes_chunks_with_the_same_content() -> None:
    *parts, usage = chunks_from_completion(COMPLETION, with_usage=True)
    bodies = [json.loads(part.raw) for part in parts]
    assert all(body["object"] == "chat.completion.chunk" and body["id"] == "chatcmpl-1" for body in bodies)
    assert not any("usage" in body or "message" in body["choices"][0] for body in bodies)
    assert bodies[0]["choices"][0]["delta"]["content"] == "hällo"
    assert [body["choices"][0]["finish_reason"] for body in bodies] == [None, "stop", None, "tool_calls"]
    assert [call["index"] for call in bodies[2]["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert (usage.usage, usage.bare_usage) == (COMPLETION["usage"], True)
    assert json.loads(usage.raw)["choices"] == []


def test_the_usage_of_a_completion_is_billed_and_not_shown_to_a_client_who_did_not_ask() -> None:
    last = chunks_from_completion(COMPLETION, with_usage=False)[-1]
    assert (last.usage, last.bare_usage) == (COMPLETION["usage"], True)


def test_a_completion_without_usage_has_no_usage_chunk() -> None:
    answer = {name: value for name, value in COMPLETION.items() if name != "usage"}
    assert not any(chunk.bare_usage for chunk in chunks_from_completion(answer, with_usage=True))


def test_a_choice_without_finish_reason_is_finished_nonetheless() -> None:
    chunks = chunks_from_completion({"choices": [{"message": {"content": "a"}}]}, with_usage=False)
    assert [chunk.finish_reason for chunk in chunks] == [None, "stop"]


# --- chunks as a completion ---


def test_chunks_of_a_completion_are_that_completion_again() -> None:
    chunks = chunks_from_completion(COMPLETION, with_usage=True)
    assert json.loads(completion_from_chunks(chunk.raw for chunk in chunks)) == COMPLETION


def part(delta: object, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, **more}
    return text_of({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


def test_the_parts_of_a_stream_are_put_together() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    raws = [
        part({"role": "assistant", "content": ""}),
        part({"content": "hä"}, logprobs={"content": [1]}),
        part({"role": "assistant", "content": "llo"}, logprobs={"content": [2]}),
        part({"reasoning_content": "so"}),
        part({"tool_calls": [call]}, index=1),
        part({"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}]}, index=1),
        part({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "g"}}]}, index=1),
        part({}, finish_reason="stop"),
        part({}, index=1, finish_reason="tool_calls"),
        b'{"id":"c","choices":[],"usage":{"total_tokens":9}}',
    ]
    answer = json.loads(completion_from_chunks(raws))
    assert (answer["id"], answer["object"], answer["usage"]) == ("c", "chat.completion", {"total_tokens": 9})
    first, second = answer["choices"]
    assert first["message"] == {"role": "assistant", "content": "hällo", "reasoning_content": "so"}
    assert (first["finish_reason"], first["logprobs"]) == ("stop", {"content": [1, 2]})
    assert second["finish_reason"] == "tool_calls"
    assert second["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "g"}},
    ]


def test_usage_is_the_last_that_is_not_null_and_never_a_sum() -> None:
    usages = [{"total_tokens": 1}, {"total_tokens": 5}, None]
    raws = [text_of({"id": "c", "choices": [], "usage": usage}) for usage in usages]
    assert json.loads(completion_from_chunks(raws))["usage"] == {"total_tokens": 5}


@pytest.mark.parametrize("raws", [[], [b"nothing"], [b"{}"]], ids=["no_chunk", "no_json", "empty_chunk"])
def test_a_stream_without_a_chunk_is_no_completion(raws: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"^it (is|holds) "):
        completion_from_chunks(raws)


CALLS = {
    "a_call_that_is_filled_late": ([{"function": None}, {"function": {"name": "f"}}], [{"function": {"name": "f"}}]),
    "a_call_that_is_no_object": ([1, {"id": "c"}], [{"id": "c"}]),
    "a_place_out_of_order": ([{"index": 7, "id": "a"}, {"index": -1, "id": "b"}], [{"id": "a"}, {"id": "b"}]),
    "an_id_that_comes_late": ([{"function": {"name": "f"}}, {"id": "c", "type": "function"}],
                              [{"function": {"name": "f"}, "id": "c", "type": "function"}]),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "calls"), CALLS.values(), ids=CALLS.keys())
def test_calls_in_strange_forms_are_put_together(parts: list[Any], calls: list[Any]) -> None:
    parts = [{"index": 0, **each} if isinstance(each, dict) else each for each in parts]
    raws = [part({"tool_calls": "x"}), *(part({"tool_calls": [one]}) for one in parts)]
    answer = json.loads(completion_from_chunks(raws))
    assert answer["choices"][0]["message"]["tool_calls"] == calls


@pytest.mark.parametrize("choices", [5, "abc", {"a": 1}, [5, None], None, True])
def test_choices_of_a_wrong_type_are_none(choices: object) -> None:
    assert json.loads(completion_from_chunks([text_of({"id": "c", "choices": choices})]))["choices"] == []


# --- whatever upstream sends ---

NAMES = st.sampled_from(
    [
        *("id", "model", "error", "usage", "choices", "index", "delta", "message", "role", "content"),
        *("tool_calls", "function", "name", "arguments", "finish_reason", "logprobs", "object"),
    ]
)
STRANGE = st.dictionaries(
    NAMES,
    st.recursive(
        st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=5,
)


@given(STRANGE, st.booleans())
def test_a_strange_completion_gives_chunks_or_is_refused(answer: dict[str, Any], with_usage: bool) -> None:
    try:
        chunks = chunks_from_completion(answer, with_usage)
    except ValueError:
        return
    for chunk in chunks:
        if chunk.raw:
            read_object(chunk.raw)


@given(st.lists(STRANGE, max_size=5))
def test_strange_chunks_give_a_completion_or_are_refused(chunks: list[dict[str, Any]]) -> None:
    try:
        answer = completion_from_chunks([json.dumps(chunk).encode() for chunk in chunks])
    except ValueError:
        return
    assert isinstance(read_object(answer)["choices"], list)
