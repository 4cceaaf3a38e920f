"""What upstream is asked, and the form in which its answer is passed on (spec 6).

What the client did not ask for does not reach it; all else passes byte for byte.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.body import (
    Chunk,
    UnsendableBody,
    chunks_from_completion,
    completion_from_chunks,
    for_upstream,
    read_chunk,
    wants_usage,
)
from workernode.strict_json import read_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=5)


def text_of(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


# --- what upstream is asked ---

CHAT: dict[str, Any] = {"model": "theirs", "messages": [{"role": "user", "content": "hällo"}]}
USAGE = {"include_usage": True}

# The client's additions, stream, model, ask_usage → what upstream gets of `model`, `stream`, `stream_options`.
ASKED = {
    "plain": ({}, False, None, True, ("theirs", False, None)),
    "plain_though_the_body_says_stream": ({"stream": True}, False, None, True, ("theirs", False, None)),
    "plain_with_stream_options": ({"stream_options": USAGE}, False, None, True, ("theirs", False, None)),
    "stream": ({"stream": True}, True, None, True, ("theirs", True, USAGE)),
    "stream_though_the_body_says_plain": ({"stream": False}, True, None, True, ("theirs", True, USAGE)),
    "stream_says_no_usage": ({"stream_options": {"include_usage": False}}, True, None, True, ("theirs", True, USAGE)),
    "streams_other_options_stay": (
        {"stream_options": {"include_obfuscation": False}}, True, None, True,
        ("theirs", True, {"include_obfuscation": False, "include_usage": True}),
    ),
    "stream_options_of_a_wrong_type": ({"stream_options": [1]}, True, None, True, ("theirs", True, USAGE)),
    "upstream_rejects_stream_options": ({"stream_options": USAGE}, True, None, False, ("theirs", True, None)),
    "upstream_model": ({}, False, "ours", True, ("ours", False, None)),
    "upstream_model_where_the_client_names_none": ({"model": None}, True, "ours", True, ("ours", True, USAGE)),
}  # fmt: skip


@pytest.mark.parametrize(("more", "stream", "model", "ask_usage", "wanted"), ASKED.values(), ids=ASKED.keys())
def test_upstream_is_asked(
    more: dict[str, Any], stream: bool, model: str | None, ask_usage: bool, wanted: tuple[Any, ...]
) -> None:
    data = {**CHAT, "temperature": 0.5, "tools": [], **more}
    before = json.dumps(data)
    body = json.loads(for_upstream(data, stream=stream, model=model, ask_usage=ask_usage))
    assert (body.pop("model"), body.pop("stream"), body.pop("stream_options", None)) == wanted
    assert body == {"messages": CHAT["messages"], "temperature": 0.5, "tools": []}
    assert json.dumps(data) == before, "the client's body was changed"


@given(OBJECT, st.booleans(), st.none() | st.text(), st.booleans())
def test_all_else_of_the_clients_body_reaches_upstream(
    data: dict[str, Any], stream: bool, model: str | None, ask_usage: bool
) -> None:
    body = json.loads(for_upstream(data, stream=stream, model=model, ask_usage=ask_usage))
    ours = {"model", "stream", "stream_options"}
    assert {k: v for k, v in body.items() if k not in ours} == {k: v for k, v in data.items() if k not in ours}
    assert body["stream"] is stream


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), DEEP], ids=["infinite", "nan", "deep"])
def test_a_body_without_a_json_form_is_not_sent(value: object) -> None:
    """1e400 can be read, as infinity, and cannot be written again."""
    with pytest.raises(UnsendableBody):
        for_upstream({"temperature": value}, stream=False, model=None)


def test_a_lone_surrogate_reaches_upstream_as_it_came() -> None:
    assert b'"\\ud800"' in for_upstream(json.loads('{"user":"\\ud800"}'), stream=False, model=None)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({"include_usage": True}, True), ({"include_usage": False}, False), ({"include_usage": 1}, False), ({}, False),
     ([], False), (None, False)],
)  # fmt: skip
def test_a_client_wants_usage_only_if_it_says_so(options: object, wanted: bool) -> None:
    assert wants_usage({"stream_options": options}) is wanted


# --- one chunk ---

READ = {
    "content": (
        b'{"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"usage":null}',
        {"has_text": True, "model": "m"},
    ),
    "role_only": (b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}', {}),
    "tool_call": (b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', {"has_text": True}),
    "finish": (b'{"choices":[{"delta":{},"finish_reason":"stop"}]}', {"finish_reason": "stop"}),
    "bare_usage": (b'{"choices":[],"usage":{"total_tokens":3}}', {"usage": {"total_tokens": 3}, "bare_usage": True}),
    "usage_with_content": (
        b'{"choices":[{"delta":{"content":"a"}}],"usage":{"total_tokens":3}}',
        {"usage": {"total_tokens": 3}, "has_text": True},
    ),
    "no_choices_and_no_usage": (b'{"choices":[],"prompt_filter_results":[]}', {}),
    "usage_of_a_wrong_type": (b'{"choices":[],"usage":7}', {}),
    "error": (b'{"error":{"message":"no","code":"x"}}', {"error": {"message": "no", "code": "x"}}),
    "error_as_text": (b'{"error":"no"}', {"error": {"message": "no"}}),
    "error_that_is_none": (b'{"error":null,"choices":[]}', {}),
    "wrong_types_everywhere": (b'{"model":1,"choices":[1,{"delta":2,"finish_reason":3},{"delta":{"content":4}}]}',
                               {"has_text": True}),
    "choices_that_are_no_list": (b'{"choices":{"a":1}}', {}),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "said"), READ.values(), ids=READ.keys())
def test_a_chunk_is_read(raw: bytes, said: dict[str, Any]) -> None:
    assert read_chunk(raw) == Chunk(raw, **said)


@given(OBJECT)
def test_a_chunk_on_one_line_passes_byte_for_byte(value: dict[str, Any]) -> None:
    value.pop("error", None)
    raw = json.dumps(value, separators=(", ", " : ")).encode()
    assert read_chunk(raw).raw == raw


@given(OBJECT, st.sampled_from(["\n", "\r", "\r\n"]))
def test_a_chunk_on_several_lines_leaves_on_one(value: dict[str, Any], end: str) -> None:
    """A newline inside `data` breaks the client's event stream (spec 1.2)."""
    value.pop("error", None)
    raw = json.dumps(value, indent=1).replace("\n", end).encode()
    made = read_chunk(raw).raw
    assert b"\n" not in made
    assert b"\r" not in made
    assert json.loads(made) == value


BAD = {
    "empty": b"",
    "no_json": b"<html>",
    "half_json": b'{"choices":[',
    "list": b"[]",
    "text": b'"hi"',
    "null": b"null",
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "not_utf8": b'{"a":"\xff"}',
    "byte_order_mark": b'\xef\xbb\xbf{"a":1}',
    "too_deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "number_too_long": b'{"a":' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("read", [read_object, read_chunk])
def test_what_is_no_json_object_is_refused_in_words(raw: bytes, read: Any) -> None:
    with pytest.raises(ValueError, match=r"^it (is|holds) "):
        read(raw)


@pytest.mark.parametrize("raw", [b'{"a":\n1e999}', b'{"a":\r\n-1e999}'])
def test_a_number_that_has_no_json_form_is_refused_where_the_chunk_is_written_anew(raw: bytes) -> None:
    """`Infinity` would be no JSON, and the gateway would skip the frame without a word."""
    with pytest.raises(ValueError, match=r"^it (is|holds) "):
        read_chunk(raw)


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


def test_a_completion_becomes_chunks_that_say_the_same() -> None:
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


@given(st.binary(max_size=200) | STRANGE.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_chunk_or_are_refused(raw: bytes) -> None:
    try:
        chunk = read_chunk(raw)
    except ValueError:
        return
    assert isinstance(read_object(chunk.raw), dict)
