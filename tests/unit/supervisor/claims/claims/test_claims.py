"""What a node claims and publishes, and when it works without claims."""

from __future__ import annotations

from itertools import pairwise

import pytest

from supervisor.claims import Finding
from supervisor.claims.claims import FOREVER, FRAME_AFTER, KEPT_BEYOND, LEASE, SIGN_INTERVAL
from supervisor.claims.table import ClaimMessage
from supervisor.events import ClaimsOpened
from tests.unit.supervisor.claims.claims.box import END_GRANTED, GRANTED, Box, came, message
from workernode.protocol import Granted

# --- off ---


def test_until_claims_can_be_used_everything_is_granted_at_once() -> None:
    box = Box(is_open=False)
    assert box.claims.is_new(message())
    box.claims.take(came(box.now), 1, "r")
    box.claims.ask(1, "r", False)
    assert (box.claims.grants(), box.claims.lease, box.claims.next_tick(box.now)) == (GRANTED, FOREVER, FOREVER)
    box.claims.recorded(1, "r")
    assert box.turn() == []


def test_a_node_that_may_not_use_claims_says_so_once_and_works_without(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(is_open=False)
    for _ in range(2):  # connected, and connected again
        box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    assert [record.__dict__["event"] for record in caplog.records] == ["claims_off"]
    assert not box.claims.is_on


def test_a_right_that_is_taken_away_a_second_time_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(is_open=False)
    for _ in range(2):
        box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
        box.claims.opened(ClaimsOpened())
    assert [record.__dict__["event"] for record in caplog.records] == ["claims_off", "claims_on"] * 2
    assert box.claims.is_on


def test_a_passing_fault_as_the_topic_is_opened_turns_nothing_off() -> None:
    box = Box()
    box.claims.opened(ClaimsOpened("Timeout"))
    assert box.claims.is_on


def test_what_waits_is_granted_and_served_when_the_right_is_taken_away() -> None:
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    box.claims.ask(1, "r", False)
    box.claims.look_up(box.now, 2, "s", message(), box.now + 600.0)
    box.turn()
    box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    assert box.claims.grants() == GRANTED
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    assert box.claims.lease == FOREVER


def test_a_stream_that_runs_while_the_right_is_away_for_a_moment_may_end() -> None:
    """Its worker asks, because its job was claimed; a denial would have the task run again."""
    box = Box()
    box.take()
    assert box.ask() == GRANTED
    box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    box.claims.opened(ClaimsOpened())
    assert box.ask(is_end=True) == END_GRANTED


@pytest.mark.parametrize("is_end", [True, False])
def test_a_task_that_was_taken_without_claims_counts_as_begun_once_they_can_be_used(is_end: bool) -> None:
    """Its worker asks for nothing. As the node stops, its end is asked for; a denial would have its text repeated."""
    box = Box(is_open=False)
    box.claims.take(came(box.now), 1, "r")
    box.claims.opened(ClaimsOpened())
    assert [(sent.taken, sent.begun) for sent in box.turn()] == [(["r"], ["r"])]
    box.store()
    box.claims.ask(1, "r", is_end)
    box.run(2.0)
    assert box.claims.grants() == [Granted(1, True, is_end)]


def test_a_task_that_runs_while_claims_cannot_be_used_counts_as_begun_once_they_can_be_used_again() -> None:
    """Its stream may have begun meanwhile, unasked."""
    box = Box()
    box.take()
    box.claims.opened(ClaimsOpened("TopicTerminated", is_refused=True))
    box.claims.opened(ClaimsOpened())
    assert [(sent.taken, sent.begun) for sent in box.turn()] == [(["r"], ["r"])]


# --- the normal way ---


def test_a_claim_is_published_without_being_read() -> None:
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    assert box.turn() == [ClaimMessage("me", taken=["r"])]
    box.store()
    assert box.ask() == GRANTED
    assert box.ask(is_end=True) == END_GRANTED
    assert box.reading == []


def test_a_stream_waits_until_its_claim_is_stored() -> None:
    box = Box()
    box.take()
    box.claims.ask(1, "r", False)
    assert box.turn() == [ClaimMessage("me", begun=["r"])]
    assert box.claims.grants() == []
    box.store()
    assert box.claims.grants() == GRANTED
    assert box.claims.grants() == [], "it is granted once"


def test_a_task_that_is_claimed_is_not_claimed_again() -> None:
    """It was refused by upstream, kept, and goes to a worker for the second time."""
    box = Box()
    box.take()
    box.claims.take(came(box.now), 1, "r")
    assert box.turn() == []


def test_a_message_without_request_id_is_not_claimed() -> None:
    box = Box()
    box.claims.take(came(box.now), 1, "")
    assert box.turn() == []


def test_that_a_task_is_given_back_is_published() -> None:
    box = Box()
    box.take()
    box.claims.given_back(1, "r")
    assert box.turn() == [ClaimMessage("me", released=["r"])]
    box.store()
    assert box.turn(100.0) == [], "no more signs of life"


@pytest.mark.parametrize("is_stream", [False, True])
def test_that_the_record_of_a_task_is_stored_is_published(is_stream: bool) -> None:
    box = Box()
    box.take()
    if is_stream:
        box.ask()
        box.ask(is_end=True)
    box.claims.recorded(1, "r")
    assert box.turn() == [ClaimMessage("me", recorded=["r"])]
    box.store()
    assert box.turn(100.0) == [], "no more signs of life"


def test_a_task_that_is_not_this_nodes_is_given_back_all_the_same_and_not_recorded() -> None:
    """A claim of it may stand in the topic that this node has not read yet: others would leave the task to it."""
    box = Box()
    box.claims.given_back(1, "r")
    box.claims.recorded(2, "s")
    assert box.turn() == [ClaimMessage("me", released=["r"])]


def test_a_message_without_request_id_is_not_given_back_in_the_topic() -> None:
    box = Box()
    box.claims.given_back(1, "")
    assert box.turn() == []


def test_a_node_that_holds_claims_gives_signs_of_life() -> None:
    box = Box()
    box.take()
    assert box.turn(SIGN_INTERVAL) == [ClaimMessage("me")]


def test_a_claim_that_is_read_back_is_stored_although_its_receipt_does_not_come() -> None:
    """Seen in the simulation: receipts that came a minute late, while the messages were read after milliseconds."""
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.store()
    box.claims.found(box.now)
    box.claims.ask(1, "r", False)
    box.turn()
    (sent,) = box.sent.values()
    sent_at = box.now
    box.now += 3.0
    box.read(sent)
    assert box.claims.grants() == GRANTED
    assert box.claims.lease == sent_at + LEASE
    box.claims.ask(1, "r", True)
    assert [sent.ended for sent in box.turn()] == [["r"]], "the next message waits for no receipt"


# --- what was announced and goes back ---


def test_a_message_that_goes_back_before_it_was_decided_is_released() -> None:
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.store(read_back=False)
    box.claims.given_back(1, "r")
    assert [sent.released for sent in box.turn()] == [["r"]]


def test_a_begun_stream_whose_message_comes_again_and_goes_back_at_once_is_released_and_not_withdrawn() -> None:
    """Its first delivery had begun it; the second, which has announced nothing, takes nothing back."""
    box = Box()
    box.take()
    box.ask()
    box.claims.given_back(1, "r")
    box.claims.look_up(box.now, 2, "r", message(), box.now + 600.0)
    box.claims.given_back(2, "r", has_left=False)
    assert [(sent.withdrawn, sent.released) for sent in box.turn()] == [([], ["r"])]


def test_a_message_of_which_nothing_is_known_is_released_and_not_withdrawn() -> None:
    """This node may have begun its stream before."""
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.store(read_back=False)
    box.turn(20.0)
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.NOT_KNOWN]
    box.claims.given_back(1, "r", has_left=False)
    assert [(sent.withdrawn, sent.released) for sent in box.turn()] == [([], ["r"])]


def test_a_task_whose_worker_died_before_anything_had_left_is_withdrawn_though_its_stream_was_announced() -> None:
    box = Box()
    box.claims.take(came(box.now), 1, "r")
    box.turn()
    box.store()
    box.claims.ask(1, "r", False)
    box.turn()
    box.store()
    box.claims.given_back(1, "r", has_left=False)
    assert [sent.withdrawn for sent in box.turn()] == [["r"]]


def test_a_stream_that_goes_back_after_its_end_was_announced_is_reported_as_unended() -> None:
    """Its worker waited in vain for the grant, so that the end has not left: whoever claims it next ends it."""
    box = Box()
    box.take()
    box.ask()
    box.ask(is_end=True)
    box.claims.given_back(1, "r")
    assert [sent.unended for sent in box.turn()] == [["r"]]


def test_a_stream_that_this_node_may_have_ended_before_is_not_reported_as_unended() -> None:
    box = Box()
    box.look_up_in_vain()
    box.claims.ask(1, "r", True)
    box.claims.given_back(1, "r")
    assert [(sent.unended, sent.released) for sent in box.turn()] == [([], ["r"])]


def test_that_a_stream_begins_is_published_when_its_first_frame_may_leave() -> None:
    """A node that is killed sooner leaves a task that had not begun, which another node may take for new."""
    box = Box()
    box.take()
    received_at = box.now
    box.claims.ask(1, "r", False, received_at)
    assert box.turn(FRAME_AFTER / 2) == []
    assert box.claims.next_tick(box.now) == received_at + FRAME_AFTER
    assert [sent.begun for sent in box.turn(FRAME_AFTER)] == [["r"]]
    box.store()
    assert box.claims.grants() == GRANTED


def test_an_end_and_a_beginning_that_is_due_are_published_at_once() -> None:
    box = Box()
    box.take()
    box.claims.ask(1, "r", False, box.now - FRAME_AFTER)
    box.claims.ask(1, "r", True, box.now)
    assert [(sent.begun, sent.ended) for sent in box.turn()] == [(["r"], ["r"])]


def test_a_stream_that_was_decided_before_it_may_begin_is_not_published() -> None:
    """Upstream refused it, and it goes back."""
    box = Box()
    box.take()
    box.claims.ask(1, "r", False, box.now)
    box.claims.given_back(1, "r", has_left=False)
    assert [(sent.begun, sent.withdrawn) for sent in box.turn(2 * FRAME_AFTER)] == [([], ["r"])]


def test_what_waits_to_be_published_is_granted_when_claims_cannot_be_used_any_more() -> None:
    box = Box()
    box.take()
    box.claims.ask(1, "r", False, box.now)
    box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    assert box.claims.grants() == GRANTED


@pytest.mark.parametrize(
    ("asks", "published"),
    [
        ([], ClaimMessage("me", taken=["r"])),
        ([False], ClaimMessage("me", taken=["r"], begun=["r"])),
        ([False, True], ClaimMessage("me", taken=["r"], begun=["r"], ended=["r"])),
    ],
    ids=["taken", "begun", "ended"],
)
def test_a_claim_that_lasts_is_published_again_before_others_forget_it(
    asks: list[bool], published: ClaimMessage
) -> None:
    box = Box()
    box.take()
    for is_end in asks:
        box.ask(is_end)
    began, seen = box.now, []
    while box.now < began + 3 * (600.0 + KEPT_BEYOND):
        seen += [box.now for message in box.turn(0.5) if message == published]
        box.store()
    assert max(later - sooner for sooner, later in pairwise([began, *seen, box.now])) < 600.0 + KEPT_BEYOND
    assert len(seen) <= 6


def test_a_claim_that_does_not_last_is_not_published_again() -> None:
    box = Box()
    box.run(600.0)
    box.take()
    assert not any(message.taken for _ in range(200) for message in box.turn(0.5))
