"""API_URL becomes the address of chat completions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.settings import chat_address


@pytest.mark.parametrize(
    ("given_url", "address"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1//", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/chat/completions/", "https://api.openai.com/v1/chat/completions"),
        ("HTTP://127.0.0.1:8080", "http://127.0.0.1:8080/v1/chat/completions"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1/chat/completions"),
        ("http://model_server", "http://model_server/v1/chat/completions"),
        ("https://host/api/v3", "https://host/api/v3/chat/completions"),
        ("https://host/openrouter/api", "https://host/openrouter/api/v1/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        (
            "https://host/v1/projects/p/endpoints/openapi",
            "https://host/v1/projects/p/endpoints/openapi/chat/completions",
        ),
        (
            "https://host/openai/deployments/g?api-version=1",
            "https://host/openai/deployments/g/chat/completions?api-version=1",
        ),
        ("https://host/chat/completions?a=b&c", "https://host/chat/completions?a=b&c"),
        ("https://host?a=b", "https://host/v1/chat/completions?a=b"),
    ],
)
def test_api_url_in_any_form_becomes_the_chat_completions_address(given_url: str, address: str) -> None:
    assert chat_address(given_url) == address
    assert chat_address(address) == address


@given(st.text() | st.from_regex(r"https?://[a-z\[\]:@/?#.\\0-9]*", fullmatch=True))
def test_any_text_is_an_address_or_is_refused(text: str) -> None:
    try:
        address = chat_address(text)
    except ValueError:
        return
    assert chat_address(address) == address
