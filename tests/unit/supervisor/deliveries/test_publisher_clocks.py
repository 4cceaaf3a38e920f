"""The age of messages whose publishers' clocks differ from this node's, under clocks of the test's own."""

from __future__ import annotations

import pytest

from supervisor.deliveries.publisher_clocks import IN_VAIN, PublisherClocks
from supervisor.events import Received

WALL = 1e9


class Box:
    """A node's clocks and the publishers' messages."""

    def __init__(self) -> None:
        self.now, self.jump, self.asleep = 100.0, 0.0, 0.0
        self.clocks = PublisherClocks(self.now, WALL + self.now)

    def age(
        self,
        true_age: float = 0.0,
        behind: float = 0.0,
        *,
        asked_for: float = 0.0,
        redeliveries: int = 0,
        by: str = "a",
    ) -> float:
        """Take a message of a publisher whose clock is so far behind; return its age as the node finds it."""
        self.now += 1.0
        published = WALL + self.now + self.asleep - true_age - behind
        message = Received(
            1, (1, 1, 0, -1), b"", published, WALL + self.now + self.jump, self.now, redeliveries, False, by, asked_for
        )
        found = self.clocks.corrected(message, self.asleep)
        return found.received - found.published


@pytest.mark.parametrize("behind", [360.0, -360.0], ids=["6 minutes behind", "6 minutes ahead"])
def test_the_difference_of_two_clocks_is_taken_off(behind: float) -> None:
    box = Box()
    assert box.age(behind=behind, asked_for=IN_VAIN) == pytest.approx(0.0)
    assert box.age(200.0, behind) == pytest.approx(200.0), "one that has waited is as old as it is"
    assert box.clocks.largest == pytest.approx(behind)


def test_a_message_that_is_tried_again_here_is_corrected_once() -> None:
    box = Box()
    box.age(behind=360.0, asked_for=IN_VAIN)
    message = Received(1, (1, 1, 0, -1), b"", WALL + box.now - 460.0, WALL + box.now, box.now, 0, False, "a")
    once = box.clocks.corrected(message)
    again = box.clocks.corrected(once)
    assert [each.received - each.published for each in (once, again)] == pytest.approx([100.0, 100.0])


def test_messages_that_have_waited_at_the_broker_are_no_sign_of_a_clock() -> None:
    box = Box()
    assert [box.age(400.0), box.age(400.0, asked_for=IN_VAIN / 2)] == pytest.approx([400.0, 400.0])
    assert box.age(400.0, asked_for=IN_VAIN, redeliveries=1) == pytest.approx(400.0)
    assert box.clocks.largest == 0.0


def test_the_smallest_of_the_last_ages_counts() -> None:
    """A message that a dead node had held comes to an idle node, and is old."""
    box = Box()
    box.age(asked_for=IN_VAIN)
    assert box.age(250.0, asked_for=IN_VAIN) == pytest.approx(250.0)


def test_a_clock_that_is_set_right_is_noticed_at_once_and_one_that_is_set_wrong_after_three_messages() -> None:
    box = Box()
    box.age(behind=360.0, asked_for=IN_VAIN)
    assert box.age(asked_for=IN_VAIN) == pytest.approx(0.0)
    assert box.clocks.largest == 0.0
    ages = [box.age(behind=360.0, asked_for=IN_VAIN) for _ in range(4)]
    assert ages == pytest.approx([360.0, 360.0, 0.0, 0.0])


def test_a_network_that_stood_still_is_no_sign_of_a_clock() -> None:
    """The node has asked for 26 seconds in vain; then a message comes that was published three seconds after that."""
    box = Box()
    assert box.age(23.0, asked_for=26.0) == pytest.approx(23.0)
    assert box.age(20.0) == pytest.approx(20.0)
    assert box.clocks.largest == 0.0


def test_an_age_that_a_network_could_explain_counts_when_a_second_one_agrees() -> None:
    box = Box()
    ages = [box.age(behind=360.0, asked_for=1000.0) for _ in range(2)]
    assert ages == pytest.approx([360.0, 0.0])


def test_the_time_that_the_machine_slept_is_a_part_of_a_messages_age(caplog: pytest.LogCaptureFixture) -> None:
    box = Box()
    box.age()
    box.jump = box.asleep = 3600.0
    assert box.age(3700.0) == pytest.approx(3700.0)
    assert caplog.records == []


def test_each_publisher_has_a_clock_of_its_own() -> None:
    box = Box()
    box.age(behind=360.0, asked_for=IN_VAIN, by="a")
    assert box.age(asked_for=IN_VAIN, by="b") == pytest.approx(0.0)
    assert box.age(30.0, 360.0, by="a") == pytest.approx(30.0)
    assert box.age(30.0, by="b") == pytest.approx(30.0)


@pytest.mark.parametrize("jump", [600.0, -600.0])
def test_a_jump_of_the_own_clock_changes_no_age(jump: float, caplog: pytest.LogCaptureFixture) -> None:
    box = Box()
    box.age()
    box.jump = jump
    assert [box.age(), box.age(20.0)] == pytest.approx([0.0, 20.0])
    assert [record.event for record in caplog.records] == ["clock_jumped"]  # type: ignore[attr-defined]


def test_a_small_difference_is_left_as_it_is() -> None:
    box = Box()
    assert box.age(behind=2.0, asked_for=IN_VAIN) == pytest.approx(2.0)


def test_what_is_kept_of_publishers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.deliveries.publisher_clocks.MOST_PUBLISHERS", 3)
    box = Box()
    for number in range(10):
        box.age(behind=360.0, asked_for=IN_VAIN, by=str(number))
    assert len(box.clocks._ages) == len(box.clocks._logged) == 3


@pytest.mark.parametrize(("behind", "jump"), [(0.0, 0.0), (360.0, 0.0), (0.0, -360.0), (360.0, 360.0)])
def test_what_a_message_was_stamped_with_is_kept_whatever_is_taken_for_a_difference(behind: float, jump: float) -> None:
    box = Box()
    box.age(behind=behind, asked_for=IN_VAIN)
    stamped = WALL + box.now - 460.0
    message = Received(1, (1, 1, 0, -1), b"", stamped, WALL + box.now + jump, box.now, 0, False, "a")
    assert box.clocks.corrected(message).earliest == pytest.approx(box.now - 460.0)
