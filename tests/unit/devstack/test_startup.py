"""The questions that start.sh has Python answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack import startup
from devstack.terminal import StackError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("<html>", "not a chat completion", id="html"),
        pytest.param("", "not a chat completion", id="nothing"),
        pytest.param('{"error":{"message":"no"}}', "is an error", id="error"),
        pytest.param('{"choices":[]}', "no text", id="no choice"),
        pytest.param('{"choices":[{"message":{"content":" "}}]}', "no text", id="blank"),
    ],
)
def test_a_body_that_is_no_answer_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "body").write_text(text)
    with pytest.raises(StackError, match=message):
        startup.answer(str(tmp_path / "body"))


CHUNK = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "did not end", id="nothing"),
        pytest.param(CHUNK * 2, "did not end", id="no end"),
        pytest.param(CHUNK + "data: [DONE]\n\n", "brought 1 chunks", id="one chunk"),
        pytest.param('data: {"error":{"message":"no"}}\n\ndata: [DONE]\n\n', "is an error", id="error"),
    ],
)
def test_a_body_that_is_no_stream_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "body").write_text(text)
    with pytest.raises(StackError, match=message):
        startup.stream(str(tmp_path / "body"))


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "-1"])
def test_a_value_that_is_no_port_is_an_error(port: str) -> None:
    with pytest.raises(StackError, match=r"^GATEWAY_PORT is '.*'; it must be a port"):
        startup.ports(f"GATEWAY_PORT={port}")


@pytest.mark.parametrize("url", ["pulsar://127.0.0.1:x", "127.0.0.1", "pulsar://", "pulsar://127.0.0.1:1,127.0.0.1:2"])
def test_a_broker_that_cannot_be_reached_is_an_error(url: str) -> None:
    with pytest.raises(StackError, match="PULSAR_URL"):
        startup.reachable(url)


def test_a_dollar_in_the_env_file_is_a_dollar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / ".env").write_text("\ufeffAPI_KEY_IN_TEST=a${HOME}$b\nHOME=/other\nEMPTY_IN_TEST=\n")
    assert startup.dotenv(str(tmp_path / ".env")) == "API_KEY_IN_TEST\0a${HOME}$b\0"
