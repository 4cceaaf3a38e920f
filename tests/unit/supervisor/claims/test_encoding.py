"""What a message of the topic looks like, and what becomes of bytes that are none."""

from __future__ import annotations

import pytest

from supervisor.claims.table import ClaimMessage, decode, encode
from tests.unit.supervisor.claims.tables import TAKEN


def test_a_message_comes_back_as_it_was_published() -> None:
    message = ClaimMessage("a", ["1"], ["2"], ["3"], ["4"], ["6"], ["b"], [("5", "c")], 7, ["8"], ["9"])
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [ClaimMessage("a" * 1025), ClaimMessage("a", taken=["r" * 1025]), ClaimMessage("a", takes=[("r", "b" * 1025)])],
)
def test_a_message_with_a_name_that_no_node_has_is_passed_over(message: ClaimMessage) -> None:
    """What this node would publish about it might be too large for the broker, and nothing after it would be stored."""
    assert decode(encode(message)) is None


def test_a_sign_of_life_is_some_bytes() -> None:
    assert encode(ClaimMessage("a", serial=7)) == b'{"node":"a","serial":7}'


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"taken":["r"]}', b'{"node":1}', b'{"node":"a","taken":"r"}', b"\xff"]
)
def test_what_is_no_message_is_passed_over(data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"node":"\xff"}',
        b'{"node":"a","taken":["\xff"]}',
        b'{"node":"a","new":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
    ids=["a node that is not UTF-8", "a request id that is not UTF-8", "nested too deep"],
)
def test_a_message_of_a_foreign_writer_that_cannot_be_read_is_passed_over(data: bytes) -> None:
    assert decode(data) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert decode(b'{"node":"a","taken":["r"],"new":{"x":1}}') == TAKEN
