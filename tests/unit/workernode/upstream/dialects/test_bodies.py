"""Error bodies of any shape become OpenAI's, with the provider's message, type and code."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.upstream.dialects import error_in_answer, read_error

# A body → message, type and code that the client reads.
SHAPES: dict[str, tuple[Any, str, str, Any]] = {
    "openai": ({"error": {"message": "no", "type": "t", "param": None, "code": "c"}}, "no", "t", "c"),
    "openai_number": ({"error": {"message": "no", "code": 400}}, "no", "upstream_error", 400),
    "anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, "no", "overloaded_error",
                  None),
    "gemini": ([{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}], "no", "INVALID_ARGUMENT",
               400),
    "nested": ({"error": {"error": {"message": "no", "type": "t", "code": "c"}}}, "no", "t", "c"),
    "list_of_errors": ({"error": [{"message": "no", "code": "c"}]}, "no", "upstream_error", "c"),
    "text": ({"error": "no"}, "no", "upstream_error", None),
    "xai": ({"code": "invalid-argument", "error": "no"}, "no", "upstream_error", "invalid-argument"),
    "tgi": ({"error": "no", "error_type": "validation"}, "no", "validation", None),
    "vllm_flat": ({"object": "error", "message": "no", "type": "t", "param": None, "code": 400}, "no", "t", 400),
    "sub2api": ({"code": "INSUFFICIENT_BALANCE", "message": "no"}, "no", "upstream_error", "INSUFFICIENT_BALANCE"),
    "mistral_detail": ({"object": "error", "message": {"detail": [{"msg": "no", "type": "t"}]}}, "no", "t", None),
    "fastapi_text": ({"detail": "no"}, "no", "upstream_error", None),
    "fastapi_list": ({"detail": [{"type": "missing", "loc": ["body"], "msg": "no"}]}, "no", "missing", None),
    "cloudflare": ({"success": False, "errors": [{"code": 7000, "message": "no"}]}, "no", "upstream_error", 7000),
    "minimax": ({"base_resp": {"status_code": 1008, "status_msg": "no"}}, "no", "upstream_error", 1008),
    "qianfan": ({"error_code": 17, "error_msg": "no"}, "no", "upstream_error", 17),
    "databricks": ({"error_code": "BAD_REQUEST", "message": "no"}, "no", "upstream_error", "BAD_REQUEST"),
    "tencent": ({"Response": {"Error": {"Code": "c", "Message": "no"}}}, "no", "upstream_error", "c"),
    "bedrock": ({"__type": "ThrottlingException", "message": "no"}, "no", "ThrottlingException", None),
    "kong": ({"message": "no"}, "no", "upstream_error", None),
    "problem": ({"type": "about:blank", "title": "no", "status": 403}, "no", "about:blank", None),
    "plain_text": ("no", "no", "upstream_error", None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message", "kind", "code"), SHAPES.values(), ids=SHAPES.keys())
def test_an_error_body_becomes_openais(body: Any, message: str, kind: str, code: Any) -> None:
    found = read_error(body)
    assert found is not None
    error = found.body["error"]
    assert (error["message"], error["type"], error["code"]) == (message, kind, code)
    assert "param" in error


def test_members_that_openai_does_not_have_are_kept() -> None:
    found = read_error({"error": {"message": "no", "n_ctx": 512}, "request_id": "r"})
    assert found is not None
    assert found.body["error"]["n_ctx"] == 512
    assert found.body["request_id"] == "r"


@pytest.mark.parametrize("body", [None, 7, True, [], [1], {}, {"error": None}, {"error": ""}, {"detail": []}, "", " "])
def test_a_body_that_says_nothing_is_no_error(body: Any) -> None:
    assert read_error(body) is None


@pytest.mark.parametrize(
    "value",
    [
        {"choices": [{"delta": {}}]},
        {"choices": [{"delta": {}, "error": None}]},
        {"choices": [], "usage": {"total_tokens": 1}},
        {"usage": {"total_tokens": 1}, "message": "done"},
        {"choices": None, "base_resp": {"status_code": 0, "status_msg": ""}},
        {"type": "ping"},
        {"type": "status", "message": "loading"},
        {},
    ],
)
def test_a_chunk_without_an_error_has_none(value: dict[str, Any]) -> None:
    assert error_in_answer(value) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["error", "message", "type", "code", "detail", "errors", "base_resp", "status", "details"])
        | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_body_is_no_error_or_has_openais_shape(body: Any) -> None:
    found = read_error(body)
    if found is not None:
        error = found.body["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)


@given(st.dictionaries(st.sampled_from(["choices", "error", "base_resp", "usage", "object", "message"]), JSON))
def test_any_chunk_can_be_searched_for_an_error(value: dict[str, Any]) -> None:
    found = error_in_answer(value)
    assert found is None or found.message
