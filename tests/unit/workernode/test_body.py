"""The body that upstream gets: the client's, with model, stream and the wish for usage set (spec 6)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.body import UnsendableBody, for_upstream, wants_usage
from workernode.strict_json import loads

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


@pytest.mark.parametrize("value", [loads(b"1e400"), DEEP], ids=["infinite", "deep"])
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
