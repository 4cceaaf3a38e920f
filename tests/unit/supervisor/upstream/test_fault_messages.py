"""supervisor/upstream/fault_messages.py: each sentence names what happened, where, and what to do."""

from __future__ import annotations

import pytest

from supervisor.upstream import FaultMessages
from tests.support.check import context
from workernode.protocol import NODE_KINDS, FaultInfo, FaultKind


def test_the_sentence_names_what_where_and_what_to_do() -> None:
    sentence = FaultMessages("https://api.openai.com", "gpt-4", "prod/gpt-4")
    assert sentence(FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "Incorrect API key provided: sk-***.")) == (
        "OpenAI refused the API key (401 invalid_api_key) at https://api.openai.com; "
        "set API_KEY of AIModel prod/gpt-4 to a valid key"
    )


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_has_a_sentence_without_upstreams_own_words(kind: FaultKind) -> None:
    sentence = FaultMessages("https://host.example:8443", "llama")(FaultInfo(kind, 0, "", "sk-secret"))
    assert "https://host.example:8443" in sentence
    assert "no answer" in sentence
    assert "AIModel" not in sentence
    assert "sk-secret" not in sentence


@pytest.mark.parametrize("kind", sorted(NODE_KINDS, key=lambda kind: kind.value))
def test_every_kind_that_may_be_the_nodes_says_what_to_do(kind: FaultKind) -> None:
    what, _, advice = FaultMessages("https://h", "m")(FaultInfo(kind, 401, "", "")).partition("; ")
    assert what
    assert advice


def test_the_origin_has_neither_path_nor_credentials() -> None:
    settings = context(API_URL="https://[::1]:8443/v1", AIMODEL_NAME="gpt").settings
    assert FaultMessages.of(settings) == FaultMessages("https://[::1]:8443", "gpt-4o", "default/gpt")


@pytest.mark.parametrize(
    ("kind", "status", "code", "shown"),
    [
        (FaultKind.KEY, 401, "invalid_api_key", "(401 invalid_api_key)"),
        (FaultKind.QUOTA, 402, "402", "(402)"),
        (FaultKind.KEY, 401, "", "(401)"),
        (FaultKind.ADDRESS, 404, FaultKind.ADDRESS.value, "(404)"),
        (FaultKind.UNAVAILABLE, 0, "upstream_unreachable", "(no answer)"),
    ],
)
def test_a_code_that_repeats_the_status_or_the_kind_is_left_out(
    kind: FaultKind, status: int, code: str, shown: str
) -> None:
    assert f" {shown} at " in FaultMessages("https://api.example.com", "m")(FaultInfo(kind, status, code, ""))


def test_an_answer_with_200_that_cannot_be_used_is_not_called_no_service() -> None:
    sentence = FaultMessages("https://api.openai.com", "gpt-4")(FaultInfo(FaultKind.PASSING, 200, "bad_answer", ""))
    assert "answers with what cannot be used (200)" in sentence
