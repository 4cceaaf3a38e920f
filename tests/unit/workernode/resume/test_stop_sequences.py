"""Texts that end with the beginning of a stop sequence."""

from __future__ import annotations

import pytest

from workernode.resume.stop_sequences import StopSequences


@pytest.mark.parametrize(
    ("stop", "text", "may"),
    [
        (None, "abc", False),
        (7, "7", False),
        ("END", "the E", True),
        ("END", "the EN", True),
        ("END", "the END", False),  # upstream has decided about it
        ("END", "the ENd", False),
        (["\n\n", "User:"], "line\n", True),
        (["\n\n", "User:"], "User", True),
        (["\n\n", "User:", None], "user", False),
        ("x", "x", False),  # one character cannot be split
    ],
)
def test_a_text_may_end_with_the_beginning_of_a_stop_sequence(stop: object, text: str, may: bool) -> None:
    assert StopSequences(stop).may_begin_at_the_end_of(text) is may
