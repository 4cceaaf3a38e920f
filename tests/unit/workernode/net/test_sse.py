"""The event stream's decoder: the standard's rules as a table, and the same events however the bytes are cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workernode.net.sse import Decoder, EventTooLong


def decode(*pieces: bytes) -> list[bytes]:
    decoder = Decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.close()


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


# What comes → the data of the events in it. Rules: html.spec.whatwg.org, 9.2.6.
RULES = {
    "lf": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "cr": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "line_ends_mixed": (b"data: a\r\n\ndata: b\r\r\n", [b"a", b"b"]),
    "comments_and_pings": (b": ping\n\n:\n\ndata: a\n: in between\n\n", [b"a"]),
    "no_space_after_the_colon": (b"data:a\n\n", [b"a"]),
    "only_one_space_is_syntax": (b"data:  a \n\n", [b" a "]),
    "several_data_lines": (b"data: {\ndata: }\n\n", [b"{\n}"]),
    "empty_data_lines_count": (b"data\ndata:\ndata: a\n\n", [b"\n\na"]),
    "an_empty_data_line_is_an_event": (b"data:\n\n", [b""]),
    "other_fields_carry_nothing": (b"event: delta\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
    "other_fields_alone_are_no_event": (b"event: delta\nid: 7\n\n", []),
    "fields_that_only_begin_alike": (b"database: x\ndata-x: y\n\n", []),
    "a_field_with_a_space_before_it": (b" data: a\n\n", []),
    "byte_order_mark_at_the_start": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "byte_order_mark_elsewhere_is_no_syntax": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    "no_last_blank_line": (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    "no_last_line_end": (b"data: a\n\ndata: b", [b"a", b"b"]),
    "bytes_that_are_not_utf8_pass": (b"data: \xff\x00\n\n", [b"\xff\x00"]),
    "line_separators_of_unicode_and_ascii_are_text": (
        "data: a\u2028b\u0085c\x0b\x0c\x1c\n\n".encode(), ["a\u2028b\u0085c\x0b\x0c\x1c".encode()],
    ),
    "nothing": (b"", []),
    "only_blank_lines": (b"\n\r\n\r\n", []),
}  # fmt: skip


@pytest.mark.parametrize("split", [lambda stream: [stream], bytewise], ids=["whole", "byte_by_byte"])
@pytest.mark.parametrize(("stream", "events"), RULES.values(), ids=RULES.keys())
def test_a_stream_is_read_by_the_standards_rules(
    stream: bytes, events: list[bytes], split: Callable[[bytes], list[bytes]]
) -> None:
    assert decode(*split(stream)) == events


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\ndata: b") == [b"a"]
    assert decoder.feed(b"\r\r") == [b"b"]  # a CR ends the line at once, whether an LF follows or not
    assert decoder.feed(b"\n") == []
    assert decoder.close() == []


PIECES = st.sampled_from(
    [b"data:", b"data: ", b"data", b":", b"event: x", b" ", b"\n", b"\r", b"\r\n", b"{}", b"\xc3", b"\xef\xbb\xbf"]
)


@given(st.lists(PIECES, max_size=30).map(b"".join), st.data())
@example(b"data: a\r\n\r\ndata: b", None)
def test_cut_anywhere_is_read_as_uncut(stream: bytes, data: st.DataObject | None) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8))) if data else [7, 8, 9]
    ends = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(ends)]
    assert decode(*pieces) == decode(stream)


@given(
    st.lists(st.dictionaries(st.text(), st.text()), max_size=5),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.integers(1, 7),
    st.booleans(),
)
def test_what_was_sent_comes_out(chunks: list[dict[str, str]], end: str, size: int, pretty: bool) -> None:
    """JSON of any text, in any form that the standard allows, byte for byte."""
    texts = [json.dumps(chunk, ensure_ascii=False, indent=1 if pretty else None) for chunk in chunks]
    events = ["".join(f"data: {line}{end}" for line in text.split("\n")) for text in texts]
    stream = "".join(f": ping{end}{end}{event}{end}" for event in events).encode("utf-8", "replace")
    wanted = [text.encode("utf-8", "replace") for text in texts]
    assert decode(*[stream[i : i + size] for i in range(0, len(stream), size)]) == wanted


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"data: " + b"x" * 100], id="one_piece"),
        pytest.param([b"data: ", *[b"x" * 10] * 10], id="one_line_in_pieces"),
        pytest.param([b"data: xxxxxxx\n"] * 15, id="many_lines"),
        pytest.param([b"data:\n"] * 101, id="many_lines_without_text"),
        pytest.param([b": " + b"x" * 200], id="a_comment_without_end"),
    ],
)
def test_an_event_without_an_end_is_given_up(pieces: list[bytes]) -> None:
    decoder = Decoder(limit=100)
    with pytest.raises(EventTooLong, match="100 bytes"):
        [decoder.feed(piece) for piece in pieces]


def test_many_events_are_no_long_event() -> None:
    decoder = Decoder(limit=100)
    assert sum(len(decoder.feed(b"data: xxxxxxx\n\n: ping\n\n")) for _ in range(50)) == 50


def test_a_long_line_in_single_bytes_costs_no_more_than_its_length() -> None:
    """Joined once at its end: 300 kB in single bytes would otherwise be copied 45 GB."""
    decoder = Decoder()
    for byte in bytewise(b"data: " + b"x" * 300_000):
        assert decoder.feed(byte) == []
    assert decoder.feed(b"\n\n") == [b"x" * 300_000]
