"""`--check`: the line about TOKENIZER."""

from __future__ import annotations

from pathlib import Path

from supervisor.check import tokenizer
from supervisor.check.findings import Context
from tests.support.check import context, one_line
from tests.support.tokenizer import write_tokenizer


def line(about: Context) -> str:
    (found,) = tokenizer.check_tokenizer(about)
    return one_line(found)


def test_without_a_tokenizer_there_is_no_line() -> None:
    assert tokenizer.checks(context().settings) == []


def test_a_tokenizer_that_can_be_loaded_shows_what_it_counts(tmp_path: Path) -> None:
    about = context(TOKENIZER=str(write_tokenizer(tmp_path)))
    assert [each.names for each in tokenizer.checks(about.settings)] == [("tokenizer",)]
    assert line(about).startswith("ok: it makes 7 tokens of")


def test_a_file_that_describes_no_tokenizer_is_a_warning_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    found = line(context(TOKENIZER=str(path)))
    assert found.startswith("warn: the file cannot be loaded (")
    assert "tokenizer.json of the model" in found
