"""The key goes into the header that upstream expects, and UPSTREAM_HEADERS wins."""

from __future__ import annotations

import pytest

from workernode.protocol import Target
from workernode.upstream.headers import request_headers


@pytest.mark.parametrize(
    ("url", "key", "name", "value"),
    [
        ("https://api.openai.com/v1/chat/completions", "sk-1", "Authorization", "Bearer sk-1"),
        ("https://x.openai.azure.com/openai/deployments/d/chat/completions", "abc", "api-key", "abc"),
        ("https://x.services.ai.azure.com/models/chat/completions", "abc", "api-key", "abc"),
        ("https://x.openai.azure.com/openai/v1/chat/completions", "eyJ0.a.b", "Authorization", "Bearer eyJ0.a.b"),
        ("https://openai.azure.com.example.com/v1/chat/completions", "abc", "Authorization", "Bearer abc"),
    ],
    ids=["openai", "azure", "foundry", "entra-token", "another-host"],
)
def test_the_key_is_in_the_header_of_the_provider(url: str, key: str, name: str, value: str) -> None:
    headers = request_headers(Target(url, key))
    assert headers.pop(name) == value
    assert not {"Authorization", "api-key"} & headers.keys()


def test_own_headers_replace_those_of_the_same_name() -> None:
    headers = request_headers(Target("https://h/v1", "sk-1", (("authorization", "Basic x"), ("X-Team", "a"))))
    assert headers["authorization"] == "Basic x"
    assert headers["X-Team"] == "a"
    assert "Authorization" not in headers


def test_without_a_key_no_header_has_one() -> None:
    assert set(request_headers(Target("http://h/v1", None))) == {"Accept-Encoding", "User-Agent"}
