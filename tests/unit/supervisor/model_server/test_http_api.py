"""What is known of a model server from its answers about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.model_server.http_api import ServerInfo, info_from, is_busy

PROPS = {"total_slots": 4, "default_generation_settings": {"n_ctx": 2048, "params": {}}, "model_path": "/m/x.gguf"}
SLOTS = [{"id": number, "n_ctx": 2048, "is_processing": False} for number in range(4)]
MODELS = {"object": "list", "data": [{"id": "gemma3", "aliases": ["gemma3", "gemma"], "meta": {"n_ctx": 2048}}]}


@pytest.mark.parametrize(
    ("props", "slots", "models", "info"),
    [
        pytest.param(PROPS, SLOTS, MODELS, ServerInfo(4, 2048, ("gemma3",), ("gemma3", "gemma"), True), id="llama.cpp"),
        pytest.param(None, SLOTS, MODELS["data"], ServerInfo(4, 2048, (), (), True), id="no /props"),
        pytest.param({"total_slots": 1}, None, None, ServerInfo(1, None, (), (), True), id="an old llamafile"),
        pytest.param(None, None, None, ServerInfo(None, None, (), (), True), id="reports nothing"),
        pytest.param({"total_slots": True}, [], {"data": [{"id": 7}, "x"]}, ServerInfo(metrics=True), id="strange"),
    ],
)
def test_reads_what_every_version_says(props: object, slots: object, models: object, info: ServerInfo) -> None:
    assert info_from(props, slots, models, True) == info


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["total_slots", "default_generation_settings", "n_ctx", "data", "id", "aliases"]), inner
    ),
    max_leaves=8,
)


@given(JSON, JSON, JSON)
def test_no_answer_is_too_strange(props: object, slots: object, models: object) -> None:
    info = info_from(props, slots, models, False)
    assert info.slots is None or info.slots > 0
    assert info.stands_for("x") in (True, False)


@pytest.mark.parametrize(
    ("models", "name", "stands"),
    [
        ((), "anything", True),
        (("/models/Llama-3.2-1B.Q6_K.gguf",), "my-model", True),
        (("qwen", "gemma"), "gemma", True),
        (("/models/Qwen.gguf", "/models/Gemma-3.gguf"), "gemma-3", True),
        (("qwen", "gemma"), "llama", False),
    ],
)
def test_one_model_stands_for_any_name_and_several_only_for_their_own(
    models: tuple[str, ...], name: str, stands: bool
) -> None:
    assert ServerInfo(models=models).stands_for(name) is stands


def test_an_alias_is_a_name_too() -> None:
    info = ServerInfo(models=("qwen", "gemma"), aliases=("small",))
    assert info.stands_for("small")


@pytest.mark.parametrize(
    ("slots", "busy"),
    [
        ('[{"id": 0, "is_processing": false}, {"id": 1, "is_processing": true}]', True),
        ('[{"id": 0, "is_processing": false}]', False),
        ('[{"id": 0}]', False),
        ('{"error": {"code": 501}}', False),
        ("not JSON", False),
    ],
)
def test_a_slot_that_processes_a_request_makes_the_server_busy(slots: str, busy: bool) -> None:
    assert is_busy(slots) is busy
