"""docs/architecture.md: every module and folder that it lists exists, and no module at a top level is left out."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
LIST = PAGE.partition("## Folders")[2].partition("## ")[0]


def listed(folder: str) -> set[str]:
    """The modules (`name.py`) and folders (`name/`) that the page lists in this folder."""
    part = re.search(rf"^    {folder}/.*\n((?: {{6,}}.*\n)*)", LIST, re.MULTILINE)
    assert part
    return set(re.findall(r"(?<![\w/])(\w+\.py|\w+/)(?=[ ,:]|$)", part[1], re.MULTILINE)) - {"subscriptions/"}


@pytest.mark.parametrize("folder", ["workernode", "supervisor"])
def test_what_the_page_lists_exists_and_nothing_is_left_out(folder: str) -> None:
    there = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py", "_version.py"}
    there |= {f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")}
    names = listed(folder)
    assert there - names == set(), "left out"
    assert {name for name in names - there if name.endswith(".py")} == set(), "listed, but not there"
