"""TOKENIZER is checked at the start, as far as that is cheap."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tokenizer import write_tokenizer
from tests.unit.workernode.settings.environments import REMOTE, faults
from workernode.settings import formats, load


def test_a_tokenizer_json_is_taken(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    assert load({**REMOTE, "TOKENIZER": str(path)}).tokenizer == str(path)
    assert load(REMOTE).tokenizer == ""


@pytest.mark.parametrize(
    ("content", "why"), [(None, "cannot be read (No such file"), ("", "is no tokenizer.json"), ("GGUF", "is no token")]
)
def test_another_file_is_a_fault_in_the_settings(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    (fault,) = faults({**REMOTE, "TOKENIZER": str(path)})
    assert why in fault


def test_without_the_extra_the_fault_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tokenizer(tmp_path)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    (fault,) = faults({**REMOTE, "TOKENIZER": str(path)})
    assert "pip install 'workernode[tokenizer]'" in fault
