"""What became of tasks while the topic of claims could not be used is published once it can be used again."""

from __future__ import annotations

import pytest

from supervisor.claims import Finding
from supervisor.claims.table import ClaimMessage
from supervisor.events import ClaimsOpened
from tests.unit.supervisor.claims.claims.box import Box, came, message

REFUSED = ClaimsOpened("TopicTerminated", is_refused=True)


def after(box: Box) -> list[ClaimMessage]:
    """What is published when claims can be used again."""
    box.claims.opened(ClaimsOpened())
    return box.turn()


@pytest.mark.parametrize(
    ("has_left", "published"),
    [
        (False, ClaimMessage("me", withdrawn=["r"])),
        (True, ClaimMessage("me", taken=["r"], begun=["r"], released=["r"])),
    ],
)
def test_that_a_task_was_given_back(has_left: bool, published: ClaimMessage) -> None:
    """Seen in the simulation: other nodes left the task to this one for ever."""
    box = Box()
    box.take()
    box.claims.opened(REFUSED)
    box.claims.given_back(1, "r", has_left)
    assert after(box) == [published]


def test_that_a_task_was_given_back_whose_end_was_announced() -> None:
    """Other nodes pass over `released` after an announced end."""
    box = Box()
    box.take()
    box.ask()
    box.ask(is_end=True)
    box.claims.opened(REFUSED)
    box.claims.given_back(1, "r")
    assert after(box) == [ClaimMessage("me", taken=["r"], begun=["r"], unended=["r"])]


def test_that_a_record_was_stored() -> None:
    box = Box()
    box.take()
    box.claims.opened(REFUSED)
    box.claims.recorded(1, "r")
    assert after(box) == [ClaimMessage("me", recorded=["r"])]


@pytest.mark.parametrize("is_sent", [False, True])
def test_that_a_task_was_given_back_just_before(is_sent: bool) -> None:
    box = Box()
    box.take()
    box.claims.given_back(1, "r")
    if is_sent:
        box.turn()
    box.claims.opened(REFUSED)
    assert after(box) == [ClaimMessage("me", released=["r"])]


def test_a_task_that_has_come_again_is_claimed_and_not_given_back() -> None:
    box = Box()
    box.take()
    box.claims.opened(REFUSED)
    box.claims.given_back(1, "r", has_left=False)
    box.claims.take(came(box.now), 2, "r")
    assert after(box) == [ClaimMessage("me", taken=["r"], begun=["r"])]


def test_a_task_that_was_here_only_meanwhile_is_not_published() -> None:
    box = Box()
    box.claims.opened(REFUSED)
    box.claims.take(came(box.now), 1, "r")
    box.claims.given_back(1, "r")
    box.claims.take(came(box.now), 2, "s")
    box.claims.recorded(2, "s")
    assert after(box) == []


def test_it_is_published_once() -> None:
    box = Box()
    box.take()
    box.claims.opened(REFUSED)
    box.claims.recorded(1, "r")
    assert after(box)
    box.store()
    box.claims.opened(REFUSED)
    assert after(box) == []


@pytest.mark.parametrize("is_found", [False, True])
def test_that_a_task_was_recorded_that_was_looked_up_when_claims_went_off(is_found: bool) -> None:
    """Its claim is in the topic. Without that, the others would leave the task to this node."""
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    if is_found:
        box.store()
    box.claims.opened(REFUSED)
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    box.claims.recorded(1, "r")
    assert after(box) == [ClaimMessage("me", recorded=["r"])]


def test_that_a_stream_may_have_begun_that_was_looked_up_when_claims_went_off() -> None:
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.claims.opened(REFUSED)
    box.claims.found(box.now)
    assert after(box) == [ClaimMessage("me", taken=["r"], begun=["r"])]


@pytest.mark.parametrize("taken", ["before", "meanwhile"])
def test_who_has_begun_a_stream_unasked_is_known_until_that_is_stored(taken: str) -> None:
    box = Box()
    if taken == "before":
        box.take()
        assert not box.claims.has_begun_unasked("r")
    box.claims.opened(REFUSED)
    if taken == "meanwhile":
        box.claims.take(came(box.now), 1, "r")
    assert after(box) == [ClaimMessage("me", taken=["r"], begun=["r"])]
    assert box.claims.has_begun_unasked("r")
    box.store()
    assert not box.claims.has_begun_unasked("r")
