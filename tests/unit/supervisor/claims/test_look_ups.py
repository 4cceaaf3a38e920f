"""Messages that may be at another node too, and what the claims show about them."""

from __future__ import annotations

import pytest

from supervisor.claims.look_ups import GRACE, LIFE, LOOK_UP_LIMIT, SILENCE, Finding, Found, LookUps
from supervisor.claims.outbox import FOREVER, ClaimOutbox
from supervisor.claims.table import ClaimMessage, decode

DEADLINE = 1000.0
KEEP = 600.0


class Reader:
    """The look-ups of node "me". What it publishes is read back when the test lets it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.published: list[ClaimMessage] = []
        self.outbox = ClaimOutbox("me", self._publish)
        self.look_ups = LookUps("me", self.outbox)

    def _publish(self, number: int, data: bytes) -> None:
        message = decode(data)
        assert message is not None
        self.published.append(message)
        self.outbox.stored(self.now, number, "")

    def read(self, *messages: ClaimMessage) -> None:
        """Messages of other nodes come."""
        for message in messages:
            self.look_ups.read(self.now, message)

    def pass_time(self, seconds: float = 0.5, read_back: bool = True, others: tuple[ClaimMessage, ...] = ()) -> None:
        """Let time pass, in halves of a second.

        Args:
            read_back: what this node publishes comes back.
            others: what other nodes publish in each half of a second.
        """
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            self.read(*others)
            self.look_ups.tick(self.now)
            before = len(self.published)
            self.outbox.flush(self.now, FOREVER)
            if read_back:
                self.read(*self.published[before:])

    def look_up(self, deadline: float = DEADLINE) -> None:
        """Look message 1 up, with request "r"."""
        self.look_ups.add(self.now, 1, "r", deadline)

    def findings(self) -> list[Finding]:
        """Return what was found since the last call."""
        return [found.finding for found in self.look_ups.found()]


ALIVE = ClaimMessage("other")


def reader_with(*messages: ClaimMessage) -> Reader:
    """Return a reader that has read these messages and then looked the message up."""
    reader = Reader()
    reader.read(*messages)
    reader.look_up()
    return reader


def test_a_task_that_nobody_has_claimed_is_served_once_the_own_claim_was_read_back() -> None:
    reader = reader_with()
    reader.pass_time(read_back=False)
    assert reader.findings() == [], "another node may have claimed it a moment earlier"
    reader.read(*reader.published)
    assert reader.findings() == [Finding.SERVE]
    assert len(reader.look_ups) == 0


def test_a_task_that_another_node_claims_a_moment_earlier_is_left_to_it() -> None:
    reader = reader_with()
    reader.pass_time(read_back=False)
    reader.read(ClaimMessage("other", taken=["r"]), *reader.published)
    assert reader.look_ups.found() == [Found(1, "r", Finding.HELD, "other")]


def test_a_task_whose_record_another_node_has_stored_is_ended() -> None:
    reader = reader_with(ClaimMessage("other", recorded=["r"]))
    reader.pass_time()
    assert reader.findings() == [Finding.ENDED]


def test_an_end_without_a_record_is_left_to_its_node_for_as_long_as_that_lives() -> None:
    """It cannot store the record, or it could not have the end stored in time and will take it back."""
    reader = reader_with(ClaimMessage("other", ended=["r"]))
    reader.pass_time(2 * DEADLINE, others=(ALIVE,))
    assert reader.findings() == [Finding.HELD]
    reader.read(ClaimMessage("other", recorded=["r"]))
    reader.pass_time()
    assert reader.findings() == [Finding.ENDED]


def test_an_end_that_is_taken_back_is_sent_by_this_node() -> None:
    """Its node could not have it stored in time and gave the task back."""
    reader = reader_with(ClaimMessage("other", begun=["r"]), ClaimMessage("other", ended=["r"]))
    reader.pass_time()
    reader.read(ClaimMessage("other", unended=["r"]))
    reader.pass_time(1.0)
    assert reader.findings() == [Finding.HELD, Finding.END_STREAM]


def test_an_end_whose_node_is_gone_and_has_left_no_record_is_recorded_by_this_node() -> None:
    reader = Reader()
    reader.read(ClaimMessage("other", ended=["r"]))
    reader.look_up(deadline=reader.now + 100.0)
    reader.pass_time(100.0)
    assert reader.findings() == [Finding.HELD], "it may only be cut off, and has the record that counts"
    reader.pass_time(GRACE + 1.0)
    (found,) = reader.look_ups.found()
    assert (found.finding, found.node) == (Finding.UNRECORDED, "other")


def test_an_end_without_a_record_that_is_found_after_the_time_of_the_task_waits_until_its_node_is_gone() -> None:
    reader = Reader()
    reader.read(ClaimMessage("other", ended=["r"]))
    reader.look_up(deadline=reader.now - 100.0)
    reader.pass_time(LIFE)
    assert reader.findings() == [Finding.HELD]
    reader.pass_time(SILENCE + 3.0)
    assert reader.findings() == [Finding.UNRECORDED]


def test_a_claim_for_which_a_message_waits_is_not_forgotten() -> None:
    reader = reader_with(ClaimMessage("other", ended=["r"], taken=["s"]))
    reader.pass_time(KEEP + 1.0, others=(ALIVE,))
    reader.look_ups.forget(reader.now, KEEP)
    assert [reader.look_ups.table.get(each) is not None for each in "rs"] == [True, False]


def test_a_task_that_this_node_had_claimed_is_served() -> None:
    reader = reader_with(ClaimMessage("me", taken=["r"]))
    reader.pass_time()
    assert reader.findings() == [Finding.SERVE]


def test_a_stream_that_this_node_had_begun_is_ended() -> None:
    reader = reader_with(ClaimMessage("me", begun=["r"]))
    reader.pass_time()
    assert reader.findings() == [Finding.END_STREAM]


def test_a_node_that_gives_signs_of_life_keeps_its_task() -> None:
    reader = reader_with(ClaimMessage("other", taken=["r"]))
    reader.pass_time(200.0, others=(ALIVE,))
    assert reader.findings() == [Finding.HELD]
    assert all(not message.takes for message in reader.published)


def test_a_task_that_its_node_ends_later_is_ended() -> None:
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time(20.0, others=(ALIVE,))
    reader.read(ClaimMessage("other", recorded=["r"]))
    reader.pass_time()
    assert reader.findings() == [Finding.HELD, Finding.ENDED]


def test_a_task_that_its_node_releases_is_claimed_and_served() -> None:
    reader = reader_with(ClaimMessage("other", taken=["r"]))
    reader.pass_time()
    reader.read(ClaimMessage("other", released=["r"]))
    reader.pass_time(1.0)
    assert reader.findings() == [Finding.HELD, Finding.SERVE]


@pytest.mark.parametrize("is_third_first", [False, True])
def test_of_two_nodes_that_wait_for_a_released_task_the_first_gets_it(is_third_first: bool) -> None:
    third, others = ClaimMessage("third", taken=["r"]), [ClaimMessage("other", taken=["r"])]
    reader = reader_with(*others, *([third] if is_third_first else []))
    reader.pass_time()
    reader.read(*([] if is_third_first else [third]), ClaimMessage("other", released=["r"]))
    reader.pass_time(1.0, others=(ClaimMessage("third"),))
    assert reader.findings() == [Finding.HELD, Finding.HELD if is_third_first else Finding.SERVE]


def test_the_tasks_that_are_looked_up_or_found_and_not_told_of_yet_are_known() -> None:
    reader = reader_with()
    assert reader.look_ups.request_ids() == ["r"]
    reader.pass_time()
    assert reader.look_ups.request_ids() == ["r"]
    assert reader.findings() == [Finding.SERVE]
    assert reader.look_ups.request_ids() == []


def test_a_task_of_a_node_that_is_gone_is_taken_over_and_served() -> None:
    reader = reader_with(ClaimMessage("other", taken=["r"]))
    reader.pass_time(SILENCE + LIFE + 3.0)
    held, served = reader.look_ups.found()
    assert (held.finding, served.finding, served.node) == (Finding.HELD, Finding.SERVE, "other")


def test_a_begun_stream_of_a_node_that_is_gone_is_ended() -> None:
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time(SILENCE + LIFE + 3.0)
    assert reader.findings() == [Finding.HELD, Finding.END_STREAM]


def test_no_task_is_taken_over_before_its_node_was_silent_for_life_after_it_was_suspected() -> None:
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time(LIFE)
    assert reader.findings() == [Finding.HELD]


def test_a_sign_of_life_just_before_the_end_of_life_begins_the_wait_anew() -> None:
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time(LIFE)
    reader.read(ALIVE)
    reader.pass_time(LIFE)
    assert reader.findings() == [Finding.HELD]
    reader.pass_time(SILENCE + 3.0)
    assert reader.findings() == [Finding.END_STREAM]


def test_a_suspicion_that_is_not_stored_takes_nothing_over() -> None:
    """Both nodes may be cut off from the topic; the other may live."""
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time()
    reader.pass_time(10 * LIFE, read_back=False)
    assert all(not message.takes for message in reader.published)


def test_a_take_over_that_comes_too_late_ends_nothing() -> None:
    """The node gave a sign of life between the suspicion and the take-over, in the order of the topic."""
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time()
    while not any(message.takes for message in reader.published):
        before = len(reader.published)
        reader.pass_time(0.5, read_back=False)
        taking = reader.published[before:]
        reader.read(*(message for message in taking if not message.takes))
    reader.read(ALIVE, *taking)
    assert reader.findings() == [Finding.HELD]
    reader.pass_time(SILENCE + LIFE + 3.0)
    assert reader.findings() == [Finding.END_STREAM], "it is tried again when the node is gone after all"


def test_a_task_that_a_third_node_takes_over_first_is_left_to_it() -> None:
    reader = reader_with(ClaimMessage("other", begun=["r"]))
    reader.pass_time()
    reader.read(ClaimMessage("third", suspects=["other"]), ClaimMessage("third", takes=[("r", "other")]))
    reader.pass_time(5.0, others=(ClaimMessage("third"),))
    assert [found.node for found in reader.look_ups.found()] == ["other", "third"]


def test_tasks_of_one_gone_node_need_one_suspicion() -> None:
    reader = Reader()
    reader.read(ClaimMessage("other", taken=["1", "2", "3"]))
    for number in (1, 2, 3):
        reader.look_ups.add(reader.now, number, str(number), DEADLINE)
    reader.pass_time(SILENCE + LIFE + 3.0)
    assert sum(message.suspects == ["other"] for message in reader.published) == 1
    assert reader.findings().count(Finding.SERVE) == 3


def test_what_cannot_be_read_in_time_is_not_known() -> None:
    reader = reader_with()
    reader.pass_time(LOOK_UP_LIMIT + 1.0, read_back=False)
    assert reader.findings() == [Finding.NOT_KNOWN]
    assert len(reader.look_ups) == 0


def test_a_task_is_given_back_some_time_after_its_end_although_its_node_lives() -> None:
    """Its node may have lost it."""
    reader = Reader()
    reader.read(ClaimMessage("other", taken=["r"]))
    reader.look_up(deadline=reader.now + 5.0)
    reader.pass_time(5.0 + GRACE + 1.0, others=(ALIVE,))
    assert reader.findings() == [Finding.HELD, Finding.GIVE_BACK]


def test_a_message_that_was_decided_otherwise_is_forgotten() -> None:
    reader = reader_with()
    assert reader.look_ups.remove(1)
    assert not reader.look_ups.remove(1)
    reader.pass_time(LOOK_UP_LIMIT + 1.0)
    assert reader.findings() == []


def test_a_new_reader_decides_only_once_it_has_read_what_the_old_one_had() -> None:
    reader = reader_with(ClaimMessage("other", taken=["r"]))
    reader.pass_time(1.0)
    reader.look_ups.restart(reader.now)
    reader.pass_time(1.0)
    assert reader.findings() == [Finding.HELD]
    reader.read(ClaimMessage("other", recorded=["r"]))
    assert reader.findings() == []
    reader.read(*reader.published)
    assert reader.findings() == [Finding.ENDED]


def test_everything_is_served_when_the_claims_cannot_be_read() -> None:
    reader = reader_with()
    reader.look_ups.give_up()
    assert reader.findings() == [Finding.SERVE]


def test_there_is_nothing_to_do_when_nothing_waits() -> None:
    reader = Reader()
    assert reader.look_ups.next_tick(reader.now) == FOREVER
    reader.look_up()
    assert reader.look_ups.next_tick(reader.now) < reader.now + 1.0
