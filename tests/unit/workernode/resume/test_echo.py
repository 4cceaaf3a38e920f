"""Upstreams that repeat the text so far."""

from __future__ import annotations

import pytest

from workernode.resume.echo import Echo


def heard(so_far: str, chunks: list[str]) -> list[str]:
    echo = Echo(so_far)
    return [echo.take_out(chunk, is_last=place == len(chunks) - 1) for place, chunk in enumerate(chunks)]


@pytest.mark.parametrize(
    ("so_far", "chunks", "new"),
    [
        ("Once upon", ["Once upon", " a time"], ["", " a time"]),
        ("Once upon", ["Once", " upon a", " time"], ["", " a", " time"]),
        ("Once upon", ["Once upon a time"], [" a time"]),
        ("Once upon", [" a", " time"], [" a", " time"]),  # no echo at all
        ("Once upon", ["Once", " more"], ["", "Once more"]),  # it only began like one
        ("Once upon", ["Once"], ["Once"]),  # the answer ended
        ("", ["Once"], ["Once"]),
    ],
)
def test_the_repeated_text_is_taken_out(so_far: str, chunks: list[str], new: list[str]) -> None:
    assert heard(so_far, chunks) == new
