"""Reading and writing JSON as RFC 8259 has it."""

from __future__ import annotations

import pytest

from workernode.strict_json import dumps, read_object


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "not JSON"),
        (b'{"a":1', "not JSON"),
        (b"", "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"[" * 200_000, "nested too deep"),
    ],
)
def test_bytes_that_are_no_json_object_are_refused_with_the_reason(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_object(raw)


def test_an_object_is_read_with_its_big_integers() -> None:
    assert read_object(b'{"a": 123456789012345678901234567890}') == {"a": 123456789012345678901234567890}


def test_json_is_written_on_one_line_in_ascii() -> None:
    assert dumps({"a": "ö\n", "b": [1.5, None]}) == b'{"a":"\\u00f6\\n","b":[1.5,null]}'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_without_a_json_form_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": number})
