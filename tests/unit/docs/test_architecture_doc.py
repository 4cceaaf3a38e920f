"""docs/architecture.md: every module and folder that it lists exists, has a line of its own, and none is left out."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
LIST = PAGE.partition("## Folders")[2].partition("## ")[0]


def listed(folder: str) -> set[str]:
    """The modules (`name.py`) and folders (`name/`) that the page lists in this folder, one a line."""
    part = re.search(rf"^    {folder}/.*\n((?: {{6,}}.*\n)*)", LIST, re.MULTILINE)
    assert part
    return set(re.findall(r"^ {6}(\w+\.py|\w+/) {2,}\S", part[1], re.MULTILINE))


@pytest.mark.parametrize("folder", ["workernode", "supervisor"])
def test_what_the_page_lists_exists_and_nothing_is_left_out(folder: str) -> None:
    there = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py", "_version.py"}
    there |= {f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")}
    names = listed(folder)
    assert there - names == set(), "left out"
    assert names - there == set(), "listed, but not there"


def test_a_line_of_the_list_names_one_module_or_folder() -> None:
    names = [re.match(r" {4,}(\S+(?: \S+)*?)(?= {2,}|$)", line) for line in LIST.splitlines() if line.strip()]
    assert [name[1] for name in names if name and " " in name[1]] == []
