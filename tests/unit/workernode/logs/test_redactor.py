"""No log line holds a secret, and other text is kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.workernode.logs.log import KEY, Log
from workernode.logs.formats import JsonLines
from workernode.redaction import Redactor


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_no_line_holds_a_secret(tmp_path: Path, as_json: bool) -> None:
    made = Log(tmp_path / "log", as_json=as_json)
    made.log.info("key %s", KEY, extra={"request_id": KEY, "nested": {"a": [KEY]}})
    made.log.info(f"{KEY} in the text itself, {'x' * 470} and then again {KEY}")
    made.log.info("GET /?key=sk-canary%2F0%221%272%5C3%2B4")
    made.log.info("header Authorization: Basic canary, and {'authorization': ['Bearer canary']}")
    made.log.info("upstream said: Incorrect API key provided: sk-canary***1234")
    try:
        raise ValueError(f"bad {KEY}")
    except ValueError:
        made.log.exception("failed", extra={"long": "y" * 495 + KEY})
    assert "canary" not in made.text
    assert made.text.count("***") >= 10
    assert "ValueError: bad ***" in made.text
    made.close()


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=100 and prompt_tokens, token: 5",
        "task-123456789 on disk-20000000",
        "EMPTY is not none",
        "authorization failed",
        "API_KEY is not set",
    ],
)
def test_text_that_is_no_secret_is_kept(tmp_path: Path, text: str) -> None:
    made = Log(tmp_path / "log", secrets=("none", "EMPTY", ""))
    made.log.info(text)
    assert made.messages == [text]
    made.close()


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40)


@given(secret=SECRETS | st.from_regex("[0-9.]{6,12}", fullmatch=True), text=st.text(), number=st.integers(0, 10**12))
def test_a_line_is_json_without_the_secret_for_any_secret(secret: str, text: str, number: int) -> None:
    formatter = JsonLines(Redactor([secret], as_json=True), {})
    extra = {"field": secret, "number": number, "again": int(secret) if secret.isdigit() else 0}
    record = logging.Logger("x").makeRecord("x", 20, "", 0, "%s %s", (text, secret), None, None, extra)
    line = formatter.format(record)
    assert "\n" not in line
    values = [str(value) for value in json.loads(line).values()]
    assert not any(secret in value for value in values)
