"""What a node publishes about its claims, and when."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.claims.outbox import (
    ASKED_INTERVAL,
    FLUSH_INTERVAL,
    FOREVER,
    MOST_CHARACTERS,
    REMEMBERED,
    RETRY,
    ClaimOutbox,
    Request,
)
from supervisor.claims.table import ClaimMessage, decode

FAULT = "Timeout"


class Outbox:
    """An outbox, and what it has sent."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: dict[int, ClaimMessage] = {}
        self.box = ClaimOutbox("a", self._publish)

    def _publish(self, number: int, data: bytes) -> None:
        message = decode(data)
        assert message is not None
        self.sent[number] = message

    def flush(self, sign: float = FOREVER, fault: str | None = "") -> ClaimMessage | None:
        """Let a second pass and flush; return what was sent, without its serial.

        Args:
            fault: why it could not be stored; None: that is not known yet.
        """
        self.now += 1.0
        before = len(self.sent)
        self.box.flush(self.now, sign)
        if len(self.sent) == before:
            return None
        if fault is not None:
            self.box.stored(self.now, len(self.sent), fault)
        return msgspec.structs.replace(self.sent[len(self.sent)], serial=0)


def test_what_is_collected_goes_in_one_message() -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.box.taken("2")
    outbox.box.ask(Request(3, "3", is_end=False))
    outbox.box.ask(Request(4, "4", is_end=True))
    outbox.box.recorded("5")
    outbox.box.released("6")
    outbox.box.suspect("b")
    outbox.box.take_over("7", "b")
    assert outbox.flush() == ClaimMessage(
        "a", ["1", "2"], ["3"], ["4"], ["6"], [], ["b"], [("7", "b")], recorded=["5"]
    )


def test_nothing_is_sent_when_there_is_nothing_to_send() -> None:
    outbox = Outbox()
    assert outbox.flush() is None
    outbox.box.taken("1")
    outbox.flush()
    assert outbox.flush() is None
    assert outbox.box.next_flush(FOREVER) == FOREVER


def test_a_sign_of_life_is_sent_when_nothing_else_was_for_a_while() -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.flush(sign=2.0)
    assert outbox.flush(sign=2.0) is None, "after one second"
    assert outbox.flush(sign=2.0) == ClaimMessage("a"), "after two"


@pytest.mark.parametrize(("is_asked", "interval"), [(False, FLUSH_INTERVAL), (True, ASKED_INTERVAL)])
def test_messages_follow_each_other_no_closer_than_an_interval_that_is_shorter_if_a_stream_waits(
    is_asked: bool, interval: float
) -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.flush()
    outbox.box.taken("2")
    if is_asked:
        outbox.box.ask(Request(1, "1", is_end=False))
    assert outbox.box.next_flush(FOREVER) == outbox.now + interval


def test_the_first_message_waits_for_nothing() -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    assert outbox.box.next_flush(FOREVER) <= outbox.now


def test_what_was_stored_comes_back_with_the_requests_that_waited_for_it() -> None:
    outbox = Outbox()
    request = Request(1, "1", is_end=False)
    outbox.box.ask(request)
    outbox.flush(fault=None)
    sent = outbox.box.stored(outbox.now + 5.0, 1, "")
    assert sent is not None
    assert (sent.at, sent.requests) == (outbox.now, [request])
    assert outbox.box.stored(outbox.now, 1, "") is None, "it is reported once"


def test_what_was_not_stored_is_sent_again_before_what_came_later() -> None:
    outbox = Outbox()
    first, second = Request(1, "1", is_end=False), Request(2, "2", is_end=True)
    outbox.box.taken("1")
    outbox.box.ask(first)
    outbox.box.take_over("9", "b")
    message = outbox.flush(fault=None)
    outbox.box.ask(second)
    outbox.box.taken("3")
    assert outbox.flush(fault=None) is None, "one message is on its way at a time"
    assert outbox.box.stored(outbox.now, 1, FAULT) is None
    assert outbox.box.next_flush(FOREVER) == outbox.now + RETRY
    assert outbox.flush(fault=None) == message == ClaimMessage("a", ["1"], ["1"], takes=[("9", "b")])
    again_at = outbox.now
    sent = outbox.box.stored(outbox.now, 2, "")
    assert sent is not None
    assert (sent.at, sent.requests) == (again_at, [first])
    assert outbox.flush(fault=None) == ClaimMessage("a", ["3"], ended=["2"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("unended", "taken"),
        ("recorded", "released"),
        ("released", "begun"),
        ("withdrawn", "unended"),
    ],
)
def test_what_a_reader_would_take_for_the_earlier_of_two_goes_into_another_message(first: str, second: str) -> None:
    outbox = Outbox()
    for what in (first, second):
        if what == "begun":
            outbox.box.ask(Request(1, "1", is_end=False))
        else:
            getattr(outbox.box, what)("1")
    assert [outbox.flush(), outbox.flush()] == [
        ClaimMessage("a", **{first: ["1"]}),
        ClaimMessage("a", **{second: ["1"]}),
    ]


@pytest.mark.parametrize("what", ["released", "withdrawn", "unended", "recorded"])
def test_a_task_leaves_the_node_in_a_later_message_than_its_takeover(what: str) -> None:
    """Readers apply takeovers later than most of what a message holds."""
    outbox = Outbox()
    outbox.box.take_over("1", "b")
    outbox.box.add(what, "2")
    outbox.box.add(what, "1")
    taken_over = ClaimMessage("a", takes=[("1", "b")], **{what: ["2"]})
    assert [outbox.flush(), outbox.flush()] == [taken_over, ClaimMessage("a", **{what: ["1"]})]


def test_a_suspicion_comes_in_a_later_message_than_a_takeover_that_must_not_be_valid_by_it() -> None:
    """The node that it suspects again has spoken since it was suspected first."""
    outbox = Outbox()
    outbox.box.take_over("1", "b")
    outbox.box.suspect("b")
    assert [outbox.flush(), outbox.flush()] == [
        ClaimMessage("a", takes=[("1", "b")]),
        ClaimMessage("a", suspects=["b"]),
    ]


def test_a_stream_may_begin_in_the_message_that_has_its_end() -> None:
    outbox = Outbox()
    outbox.box.ask(Request(1, "1", is_end=True))
    outbox.box.ask(Request(1, "1", is_end=False))
    assert outbox.flush() == ClaimMessage("a", begun=["1"], ended=["1"])


def test_other_tasks_do_not_begin_another_message() -> None:
    outbox = Outbox()
    outbox.box.unended("1")
    outbox.box.taken("2")
    assert outbox.flush() == ClaimMessage("a", taken=["2"], unended=["1"])


def test_no_message_is_too_large_for_the_broker() -> None:
    outbox = Outbox()
    long = "x" * 256
    for _ in range(2 * MOST_CHARACTERS // 256):
        outbox.box.taken(long)
    sizes = [len(message.taken) * 256 for message in iter(outbox.flush, None)]
    assert len(sizes) == 2
    assert max(sizes) <= MOST_CHARACTERS + 256


def test_a_task_that_is_released_and_taken_at_once_is_not_released() -> None:
    outbox = Outbox()
    outbox.box.released("1")
    outbox.box.taken("1")
    assert outbox.flush() == ClaimMessage("a", taken=["1"])


def test_a_task_that_is_given_back_in_two_ways_and_taken_at_once_is_not_given_back() -> None:
    outbox = Outbox()
    outbox.box.released("1")
    outbox.box.withdrawn("1")
    outbox.box.taken("1")
    assert outbox.flush() == ClaimMessage("a", taken=["1"])


def test_a_task_that_is_taken_and_released_at_once_is_free_afterwards() -> None:
    """Within one message the taken come before the released."""
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.box.released("1")
    assert outbox.flush() == ClaimMessage("a", taken=["1"], released=["1"])


def test_a_mark_is_the_serial_of_the_next_message() -> None:
    outbox = Outbox()
    marks = [outbox.box.next_mark(), outbox.box.next_mark()]
    outbox.flush()
    at = outbox.now
    marks.append(outbox.box.next_mark())
    outbox.flush()
    assert marks == [1, 1, 2]
    assert [message.serial for message in outbox.sent.values()] == [1, 2]
    assert [outbox.box.sent_at(1), outbox.box.sent_at(2)] == [at, outbox.now]


def test_what_is_sent_again_keeps_its_serial_and_the_time_at_which_it_was_first_sent() -> None:
    """What failed may be stored all the same, and be read back: others know that this node lived then, no later."""
    outbox = Outbox()
    mark = outbox.box.next_mark()
    outbox.flush(fault=FAULT)
    first_at = outbox.now
    assert outbox.box.next_mark() > mark
    outbox.flush()
    assert [message.serial for message in outbox.sent.values()] == [mark, mark]
    assert outbox.box.sent_at(mark) == first_at


@pytest.mark.parametrize("fault", [None, FAULT])
def test_what_is_read_back_is_stored_whatever_was_reported_of_it(fault: str | None) -> None:
    outbox = Outbox()
    request = Request(1, "1", is_end=True)
    outbox.box.ask(request)
    outbox.flush(fault=fault)
    first_at = outbox.now
    if fault:
        outbox.flush(fault=None)
    assert outbox.box.read_back(2) is None
    sent = outbox.box.read_back(1)
    assert sent is not None
    assert (sent.at, sent.requests) == (first_at, [request]), "the one that was read may be the first"
    assert outbox.box.read_back(1) is None
    assert outbox.box.stored(outbox.now, len(outbox.sent), "") is None
    outbox.box.taken("2")
    assert outbox.flush() == ClaimMessage("a", taken=["2"])


def test_a_message_that_was_not_sent_is_not_read_back() -> None:
    outbox = Outbox()
    outbox.box.unended("1")
    outbox.box.taken("1")  # the first goes into a message of its own
    assert outbox.box.read_back(1) is None
    assert outbox.flush() == ClaimMessage("a", unended=["1"])


def test_what_is_cleared_is_not_sent_and_its_requests_come_back() -> None:
    outbox = Outbox()
    first, second = Request(1, "1", is_end=False), Request(2, "2", is_end=False)
    outbox.box.ask(first)
    outbox.flush(fault=None)
    outbox.box.ask(second)
    assert outbox.box.clear()[0] == [first, second]
    assert outbox.flush() is None
    assert outbox.box.stored(outbox.now, 1, FAULT) is None
    assert outbox.flush() is None


def test_nothing_is_remembered_of_what_was_stored() -> None:
    outbox = Outbox()
    for number in range(1, 2 * REMEMBERED):
        outbox.box.taken(str(number))
        outbox.box.next_mark()
        outbox.flush()
    assert len(outbox.box._waiting) == len(outbox.box._places) == 0
    assert len(outbox.box._first_sent) == REMEMBERED
