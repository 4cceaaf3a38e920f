"""JSON is read and written as RFC 8259 has it, and exactly as the standard library reads and writes it, only faster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workernode.strict_json import dumps, loads, read_object


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


SAME = {
    "big_integer": (b"123456789012345678901234567890", 123456789012345678901234567890),
    "just_above_64_bits": (b"18446744073709551616", 18446744073709551616),
    "just_below_64_bits": (b"-9223372036854775809", -9223372036854775809),
    "half_a_surrogate_pair": (b'"\\ud83d"', "\ud83d"),
    "half_a_surrogate_pair_as_a_name": (b'{"\\ude00":1}', {"\ude00": 1}),
    "duplicate_names": (b'{"a":1,"a":2}', {"a": 2}),
    "deep": (b"[" * 900 + b"]" * 900, None),
}


@pytest.mark.parametrize(("raw", "value"), SAME.values(), ids=SAME.keys())
def test_what_is_rare_and_valid_is_read_and_written_unchanged(raw: bytes, value: object) -> None:
    read = loads(raw)
    assert read == (json.loads(raw) if value is None else value)
    assert loads(dumps(read)) == read


def test_json_is_written_on_one_line() -> None:
    assert dumps({"a": "ö\n", "b": [1.5, None]}) == '{"a":"ö\\n","b":[1.5,null]}'.encode()


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400 + b".5"])
def test_a_number_that_is_too_large_is_read_and_not_written(number: bytes) -> None:
    """A chunk that holds it is passed on as it came; a request that holds it cannot be written again."""
    value = loads(b'{"a":[' + number + b"]}")
    assert value["a"][0] in (float("inf"), float("-inf"))
    with pytest.raises(ValueError, match="JSON"):
        dumps(value)


# --- whatever comes: as the standard library ---


def read_as_python_does(raw: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(raw.decode("utf-8"), parse_constant=refuse)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
DIGITS = st.text("0123456789", min_size=1, max_size=40)
NUMBER = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}".encode(),
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.just("") | DIGITS.map(".{}".format) | st.just("."),
    st.just("")
    | st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "-", "+"]), DIGITS.map(lambda d: d[:3])),
)
PIECE = st.sampled_from(
    [b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"d800", b"dc00", b"\xed\xa0\x80", b"\xc3\xa4", b"\xff",
     b"null", b"true", b"nul", b"NaN", b"-", b"0", b"1", b".", b"e", b" ", b"\n", b"\t", b"\x00", b"\x7f",
     b"\xef\xbb\xbf", b"a", b"/"]
)  # fmt: skip
VALID = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    ),
    VALUE, st.booleans(), st.none() | st.integers(0, 2),
)  # fmt: skip
CUT = st.builds(
    lambda raw, start, piece, end: raw[:start] + piece + raw[end:], VALID, st.integers(0, 30), PIECE, st.integers(0, 30)
)


@given(VALID | CUT | NUMBER | st.lists(PIECE, max_size=8).map(b"".join) | st.binary(max_size=20))
@example(b'"\\ud83d\\ude00"')
@example(b"-0")
@example(b"-0.0")
@example(b"1e400")
@example(b"1" * 5000)
@example(b"1" * 4000)
@example(b"0." + b"1" * 5000)
@example(b'{"a":1,"a":2}')
def test_any_bytes_are_read_as_the_standard_library_reads_them(raw: bytes) -> None:
    try:
        wanted = read_as_python_does(raw)
    except (ValueError, RecursionError):
        with pytest.raises((ValueError, RecursionError)):
            loads(raw)
    else:
        assert repr(loads(raw)) == repr(wanted)


@given(VALID | NUMBER)
def test_whatever_was_read_is_written_with_the_same_meaning(raw: bytes) -> None:
    try:
        value = loads(raw)
        text = dumps(value)
    except ValueError:
        return
    assert b"\n" not in text
    assert repr(read_as_python_does(text)) == repr(value)
