"""A child's output on its way to the log: in bounds, whatever the child does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.model_server.output import LINE_LIMIT, LINES_BURST, LINES_PER_S, TAIL_LINES, OutputLog
from workernode.redaction import MASK


class Log:
    """An output log whose clock and lines the test holds."""

    def __init__(self, *secrets: str) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.output = OutputLog(self.lines.append, secrets, lambda: self.now)


def test_lines_end_with_lf_cr_or_both_and_may_come_in_pieces() -> None:
    log = Log()
    for piece in (b"one\ntw", b"o\r\n", b"10 %\r20 %\r\n\n  \nlast"):
        assert log.output.feed(piece) is False
    assert log.lines == ["one", "two", "10 %", "20 %"]
    log.output.feed(b"")
    assert log.lines[-1] == "last"
    assert log.output.tail() == log.lines


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    log = Log()
    log.output.feed("größe \U0001f999 ".encode() + b"\xff\n")
    assert log.lines == ["größe \U0001f999 \ufffd"]


def test_an_overlong_line_is_cut() -> None:
    log = Log()
    for _ in range(100):
        log.output.feed(b"x" * 100_000)
    log.output.feed(b"\nnext\n")
    assert log.lines == ["x" * LINE_LIMIT + " …", "next"]


def test_a_flood_is_folded_into_a_count() -> None:
    log = Log()
    assert log.output.feed(b"line\n" * (LINES_BURST + 500)) is True
    assert len(log.lines) == LINES_BURST
    log.now += 1
    assert log.output.feed(b"after\n") is False
    assert log.lines[-2:] == [f"(500 lines left out here: more than {LINES_PER_S:.0f} a second)", "after"]


def test_a_flood_that_ends_with_the_child_is_counted_too() -> None:
    log = Log()
    log.output.feed(b"line\n" * (LINES_BURST + 7))
    log.output.feed(b"")
    assert "7 lines left out" in log.lines[-1]


def test_the_tail_holds_the_last_lines_of_a_flood_as_well() -> None:
    log = Log()
    log.output.feed(b"".join(b"%d\n" % number for number in range(LINES_BURST * 2)))
    assert log.output.tail() == [str(number) for number in range(LINES_BURST * 2)][-TAIL_LINES:]


def test_secrets_are_hidden_in_log_and_tail() -> None:
    log = Log("sesame", "")
    log.output.feed(b"open sesame now\n")
    assert log.lines == [f"open {MASK} now"] == log.output.tail()


@given(st.lists(st.binary(max_size=50), max_size=30))
def test_the_pieces_do_not_matter(pieces: list[bytes]) -> None:
    whole, split = Log(), Log()
    whole.output.feed(b"".join(pieces) + b"\n")
    for piece in [piece for piece in pieces if piece]:
        split.output.feed(piece)
    split.output.feed(b"\n")
    assert split.lines == whole.lines
