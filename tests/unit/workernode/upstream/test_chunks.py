"""One chunk of a stream: what is read from it, and that it passes byte for byte (spec 6)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.strict_json import read_object
from workernode.upstream.chunks import Chunk, has_figures, read_chunk

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=5)

READ = {
    "content": (
        b'{"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"usage":null}',
        {"has_text": True, "model": "m", "choices": ((0, None),)},
    ),
    "role_only": (b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}', {"choices": ((0, None),)}),
    "tool_call": (b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', {"has_text": True, "choices": ((0, None),)}),
    "finish": (
        b'{"choices":[{"delta":{},"finish_reason":"stop"}]}', {"finish_reason": "stop", "choices": ((0, "stop"),)},
    ),
    "bare_usage": (b'{"choices":[],"usage":{"total_tokens":3}}', {"usage": {"total_tokens": 3}, "bare_usage": True}),
    "usage_with_content": (
        b'{"choices":[{"delta":{"content":"a"}}],"usage":{"total_tokens":3}}',
        {"usage": {"total_tokens": 3}, "has_text": True, "choices": ((0, None),)},
    ),
    "no_choices_and_no_usage": (b'{"choices":[],"prompt_filter_results":[]}', {}),
    "usage_of_a_wrong_type": (b'{"choices":[],"usage":7}', {}),
    "usage_without_choices": (b'{"usage":{"total_tokens":3}}', {"usage": {"total_tokens": 3}, "bare_usage": True}),
    "finish_reason_that_is_empty": (
        b'{"choices":[{"index":1,"delta":{"content":"a"},"finish_reason":""}]}',
        {"has_text": True, "choices": ((1, None),)},
    ),
    "finish_reason_null_as_text": (b'{"choices":[{"delta":{},"finish_reason":"null"}]}', {"choices": ((0, None),)}),
    "reasoning": (
        b'{"choices":[{"delta":{"reasoning_content":"so"}}]}', {"has_text": True, "choices": ((0, None),)},
    ),
    "a_chunk_by_its_object": (b'{"object":"chat.completion.chunk","citations":["x"]}', {}),
    "error_that_is_none": (b'{"error":null,"choices":[]}', {}),
    "wrong_types_everywhere": (b'{"model":1,"choices":[1,{"delta":2,"finish_reason":3},{"delta":{"content":4}}]}',
                               {"has_text": True, "choices": ((0, None), (0, None))}),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), READ.values(), ids=READ.keys())
def test_a_chunk_is_read(raw: bytes, expected: dict[str, Any]) -> None:
    assert read_chunk(raw) == Chunk(raw, **expected)


KEEP_ALIVE = {
    "ping": (b'{"type":"ping"}', ""),
    "ping_event": (b'{"type":"ping"}', "ping"),
    "empty": (b"{}", ""),
    "empty_ping_event": (b"{}", "ping"),
    "choices_of_a_wrong_type": (b'{"choices":{"a":1}}', ""),
    "choices_null": (b'{"id":"x","choices":null}', ""),
    "status": (b'{"type":"status","message":"the model is being loaded"}', ""),
}


@pytest.mark.parametrize(("raw", "event"), KEEP_ALIVE.values(), ids=KEEP_ALIVE.keys())
def test_an_object_that_is_no_chunk_keeps_the_connection_alive(raw: bytes, event: str) -> None:
    assert read_chunk(raw, event) is None


ERRORS = {
    "error": (b'{"error":{"message":"no","code":"x"}}', ""),
    "error_as_text": (b'{"error":"no"}', ""),
    "error_beside_choices": (b'{"error":{"message":"no"},"choices":[{"delta":{},"finish_reason":"error"}]}', ""),
    "error_of_a_choice": (b'{"choices":[{"delta":{},"error":{"message":"no"}}]}', ""),
    "flat": (b'{"object":"error","message":"no","code":404}', ""),
    "error_event": (b'{"code":400,"message":"no"}', "error"),
    "base_resp": (b'{"choices":null,"base_resp":{"status_code":1008,"status_msg":"no"}}', ""),
}


@pytest.mark.parametrize(("raw", "event"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_in_the_place_of_a_chunk_is_an_error(raw: bytes, event: str) -> None:
    chunk = read_chunk(raw, event)
    assert chunk is not None
    assert chunk.error is not None
    assert chunk.error.message == "no"


@given(OBJECT)
def test_a_chunk_on_one_line_passes_byte_for_byte(value: dict[str, Any]) -> None:
    value = {**value, "choices": [{"delta": {"content": "a"}}], "error": None}
    raw = json.dumps(value, separators=(", ", " : ")).encode()
    chunk = read_chunk(raw)
    assert chunk is not None
    assert chunk.raw == raw


@given(OBJECT, st.sampled_from(["\n", "\r", "\r\n"]))
def test_a_chunk_on_several_lines_is_sent_on_one(value: dict[str, Any], end: str) -> None:
    """A newline inside `data` breaks the client's event stream (spec 1.2)."""
    value = {**value, "choices": [{"delta": {"content": "a"}}], "error": None}
    raw = json.dumps(value, indent=1).replace("\n", end).encode()
    chunk = read_chunk(raw)
    assert chunk is not None
    assert b"\n" not in chunk.raw
    assert b"\r" not in chunk.raw
    assert json.loads(chunk.raw) == value


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
def test_data_that_is_no_json_object_is_refused_with_the_reason(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it (is|holds) "):
        read_chunk(raw)


@pytest.mark.parametrize("raw", [b'{"a":\n1e999}', b'{"a":\r\n-1e999}'])
def test_a_number_that_has_no_json_form_is_refused_where_the_chunk_is_written_anew(raw: bytes) -> None:
    """`Infinity` would be no JSON, and the gateway would skip the frame without a word."""
    with pytest.raises(ValueError, match=r"^it (is|holds) "):
        read_chunk(raw)


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


@given(st.binary(max_size=200) | STRANGE.map(lambda value: json.dumps(value).encode()), st.sampled_from(["", "error"]))
def test_any_bytes_give_a_chunk_or_are_refused(raw: bytes, event: str) -> None:
    try:
        chunk = read_chunk(raw, event)
    except ValueError:
        return
    if chunk is not None:
        assert isinstance(read_object(chunk.raw), dict)


@pytest.mark.parametrize(
    ("usage", "has"),
    [
        (None, False), ({}, False), ([1], False), ({"prompt_tokens": None}, False), ({"total_tokens": "5"}, False),
        ({"completion_tokens": True}, False), ({"prompt_tokens": -1}, False), ({"completion_tokens": 0}, True),
        ({"prompt_tokens": None, "total_tokens": 7}, True), ({"input_tokens": 3}, True),
    ],
)  # fmt: skip
def test_a_usage_without_a_count_says_nothing(usage: object, has: bool) -> None:
    assert has_figures(usage) is has
