"""Parsed JSON of unknown shape."""

from __future__ import annotations

from workernode.json_access import as_count, as_list, member, strings


def test_a_member_of_what_is_no_object_is_none() -> None:
    assert member({"a": 1}, "a") == 1
    assert member({"a": 1}, "b") is None
    assert member([1], "a") is None
    assert member(None, "a") is None


def test_what_is_no_array_is_an_empty_list() -> None:
    assert as_list([1]) == [1]
    assert as_list("ab") == []
    assert as_list(None) == []


def test_only_positive_integers_are_counts() -> None:
    assert as_count(3) == 3
    assert [as_count(value) for value in (0, -1, True, 2.0, "2", None)] == [None] * 6


def test_only_non_empty_strings_are_kept() -> None:
    assert strings(["a", "", None, 1, "b"]) == ("a", "b")
