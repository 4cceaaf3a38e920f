"""What a node publishes about its claims, and when."""

from __future__ import annotations

import pytest

from supervisor.claims.outbox import (
    ASKED_INTERVAL,
    FLUSH_INTERVAL,
    FOREVER,
    REMEMBERED_MARKS,
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

    def flush(self, sign: float = FOREVER) -> ClaimMessage | None:
        """Let a second pass and flush; return what was sent."""
        self.now += 1.0
        before = len(self.sent)
        self.box.flush(self.now, sign)
        return self.sent[len(self.sent)] if len(self.sent) > before else None


def test_what_is_collected_goes_in_one_message() -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.box.taken("2")
    outbox.box.ask(Request(3, "3", is_end=False))
    outbox.box.ask(Request(4, "4", is_end=True))
    outbox.box.ended("5")
    outbox.box.released("6")
    outbox.box.suspect("b")
    outbox.box.take_over("7", "b")
    assert outbox.flush() == ClaimMessage("a", ["1", "2"], ["3"], ["4", "5"], ["6"], [], ["b"], [("7", "b")])


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
    outbox.flush()
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
    outbox.flush()
    outbox.box.ask(second)
    outbox.box.taken("2")
    assert outbox.box.stored(outbox.now, 1, FAULT) is None
    assert outbox.box.next_flush(FOREVER) == outbox.now + RETRY
    assert outbox.flush() == ClaimMessage("a", ["1", "2"], ["1"], ["2"], takes=[("9", "b")])
    sent = outbox.box.stored(outbox.now, 2, "")
    assert sent is not None
    assert sent.requests == [first, second]


def test_a_task_that_was_taken_again_is_not_released_by_a_message_that_is_sent_again() -> None:
    """Released, not stored, taken again: the late release would free a claim that is in use."""
    outbox = Outbox()
    outbox.box.released("1")
    outbox.flush()
    outbox.box.taken("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.released == []


def test_a_task_that_is_released_and_taken_at_once_is_not_released() -> None:
    outbox = Outbox()
    outbox.box.released("1")
    outbox.box.taken("1")
    assert outbox.flush() == ClaimMessage("a", taken=["1"])


def test_a_task_that_is_taken_and_released_at_once_is_free_afterwards() -> None:
    """Within one message the taken come before the released."""
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.box.released("1")
    assert outbox.flush() == ClaimMessage("a", taken=["1"], released=["1"])


def test_a_mark_belongs_to_the_next_message_and_grows() -> None:
    outbox = Outbox()
    marks = [outbox.box.next_mark(), outbox.box.next_mark()]
    outbox.flush()
    at = outbox.now
    marks.append(outbox.box.next_mark())
    outbox.flush()
    assert marks == [1, 1, 2]
    assert [message.mark for message in outbox.sent.values()] == [1, 2]
    assert [outbox.box.sent_at(1), outbox.box.sent_at(2)] == [at, outbox.now]


@pytest.mark.parametrize("next_has_mark", [False, True])
def test_what_is_sent_again_has_a_mark_of_its_own(next_has_mark: bool) -> None:
    """What failed may be stored all the same. Who reads it must not take it for what was sent later."""
    outbox = Outbox()
    marks = [outbox.box.next_mark()]
    outbox.flush()
    first_at = outbox.now
    if next_has_mark:
        marks.append(outbox.box.next_mark())
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.mark > max(marks)
    assert [outbox.box.sent_at(1), outbox.box.sent_at(again.mark)] == [first_at, outbox.now]


def test_what_is_sent_again_without_a_mark_gets_none() -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.mark == 0


def test_a_task_that_was_given_back_meanwhile_is_not_taken_by_a_message_that_is_sent_again() -> None:
    """A node that lives would hold it for ever."""
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.flush()
    outbox.box.released("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.taken == []


def test_a_stream_that_was_withdrawn_meanwhile_does_not_begin_by_a_message_that_is_sent_again() -> None:
    """Upstream refused it before the question whether it may begin was answered."""
    outbox = Outbox()
    outbox.box.ask(Request(1, "1", is_end=False))
    outbox.flush()
    outbox.box.withdrawn("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.begun == []


def test_a_begun_stream_that_was_released_meanwhile_stays_begun_when_its_message_is_sent_again() -> None:
    """A part of it may have left: another node must not send it from its start."""
    outbox = Outbox()
    outbox.box.again("1", is_begun=True)
    outbox.flush()
    outbox.box.released("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.begun == ["1"]


def test_an_end_that_has_not_left_is_not_announced_by_a_message_that_is_sent_again() -> None:
    """Nor is its task taken: whoever claims it next is to end the stream."""
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.box.ask(Request(1, "1", is_end=True))
    outbox.flush()
    outbox.box.unended("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert (again.taken, again.ended) == ([], [])


@pytest.mark.parametrize(("is_ended", "unended"), [(True, []), (False, ["1"])])
def test_that_an_end_has_not_left_is_sent_again_unless_it_was_announced_since(
    is_ended: bool, unended: list[str]
) -> None:
    outbox = Outbox()
    outbox.box.unended("1")
    outbox.flush()
    if is_ended:
        outbox.box.ask(Request(1, "1", is_end=True))
    outbox.box.stored(outbox.now, 1, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.unended == unended


def test_a_task_that_was_taken_and_released_in_two_messages_is_released_when_the_second_is_sent_again() -> None:
    outbox = Outbox()
    outbox.box.taken("1")
    outbox.flush()
    outbox.box.released("1")
    outbox.flush()
    outbox.box.stored(outbox.now, 2, FAULT)
    again = outbox.flush()
    assert again is not None
    assert again.released == ["1"]


def test_what_is_cleared_is_not_sent_and_its_requests_come_back() -> None:
    outbox = Outbox()
    first, second = Request(1, "1", is_end=False), Request(2, "2", is_end=False)
    outbox.box.ask(first)
    outbox.flush()
    outbox.box.ask(second)
    assert outbox.box.clear() == [first, second]
    assert outbox.flush() is None
    assert outbox.box.stored(outbox.now, 1, FAULT) is None
    assert outbox.flush() is None


def test_nothing_is_remembered_of_what_was_stored() -> None:
    outbox = Outbox()
    for number in range(1, 2 * REMEMBERED_MARKS):
        outbox.box.taken(str(number))
        outbox.box.next_mark()
        outbox.flush()
        outbox.box.stored(outbox.now, number, "")
    assert len(outbox.box._sent) == 0
    assert len(outbox.box._marks_sent) == REMEMBERED_MARKS
