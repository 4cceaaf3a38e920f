"""docs/faults.md against the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
FAULTS, SIMULATION = ROOT / "tests" / "faults", ROOT / "tests" / "simulation"
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)(?:\[(.+)\])?`")
# The rows of the table in spec 4, by the names that the page gives them.
ENDS = [
    "answered",
    "request refused by upstream",
    "passing fault",
    "upstream fails in the middle of a stream",
    "key refused, quota used up",
    "client gone",
    "gateway unreachable",
    "older than TASK_TIMEOUT",
    "not a task",
    "kills its worker again and again",
    "delivered again after it was answered",
]


def rows() -> list[list[str]]:
    """The cells of every row of every table, without heads."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [one for one in cells if one[-1] != "test"]


def functions_of(path: Path) -> set[str]:
    """The names of the test functions in a file."""
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_is_whole_and_names_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    named = TEST.fullmatch(row[3])
    assert named, row[3]
    path = (SIMULATION if named[1] == "test_simulation.py" else FAULTS) / named[1]
    assert named[2] in functions_of(path), row[3]
    if named[3]:
        assert named[3] in path.read_text(encoding="utf-8"), f"no case {named[3]!r} in {named[1]}"


@pytest.mark.parametrize("end", ENDS)
def test_every_way_a_task_can_end_has_its_row(end: str) -> None:
    assert end in [row[0] for row in rows()]


# The faults of a local model are in docs/local.md.
FILES = sorted(path for path in FAULTS.glob("test_*.py") if not path.stem.startswith("test_llamafile"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_test_of_a_fault_has_its_row(path: Path) -> None:
    named = {(match[1], match[2]) for match in TEST.finditer(PAGE)}
    assert {name for name in functions_of(path) if (path.name, name) not in named} == set()
