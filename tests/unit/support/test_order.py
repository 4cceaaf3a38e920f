"""The order of the test files (tests/support/order.py)."""

from __future__ import annotations

from tests.support.order import LONGEST, ordered
from tests.support.paths import ROOT

FAULTS = [f"tests/faults/test_{letter}.py" for letter in "ab"]
UNIT = [f"tests/unit/test_{letter}.py" for letter in "abcd"]


def test_the_longest_files_begin_first() -> None:
    assert ordered([*UNIT, *FAULTS, *reversed(LONGEST)])[: len(LONGEST)] == list(LONGEST)


def test_the_longest_files_exist() -> None:
    assert [file for file in LONGEST if not (ROOT / file).is_file()] == []


def test_files_that_wait_alternate_with_files_that_compute() -> None:
    faults, unit = FAULTS, UNIT
    assert ordered([*unit, *faults]) == [faults[0], unit[0], faults[1], unit[1], unit[2], unit[3]]


def test_each_file_comes_once() -> None:
    files = [*UNIT, *FAULTS, *LONGEST]
    assert sorted(ordered(files * 2)) == sorted(files)


def test_files_of_one_kind_keep_their_order() -> None:
    assert ordered(UNIT) == UNIT
    assert ordered(FAULTS) == FAULTS
    assert ordered([]) == []
