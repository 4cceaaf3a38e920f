"""When a model server is restarted, and when it is given up."""

from __future__ import annotations

from supervisor.model_server.limits import Limits
from supervisor.model_server.restarts import Restarts

LIMITS = Limits()


def test_the_pause_doubles_with_each_exit_up_to_the_longest() -> None:
    restarts = Restarts(Limits(exits=100))
    assert [restarts.exited(each, 0.0) for each in range(7)] == [
        (1.0, False), (2.0, False), (4.0, False), (8.0, False), (16.0, False), (30.0, False), (30.0, False),
    ]  # fmt: skip


def test_a_server_that_was_ready_for_a_minute_is_restarted_after_the_first_pause_again() -> None:
    restarts = Restarts(Limits(exits=100))
    for each in range(4):
        restarts.exited(each, 0.0)
    assert restarts.exited(100.0, 59.0) == (16.0, False)
    assert restarts.exited(200.0, 60.0) == (1.0, False)


def test_the_fifth_exit_in_ten_minutes_is_too_often_and_so_is_each_after_it() -> None:
    restarts = Restarts(LIMITS)
    assert [restarts.exited(each, 0.0)[1] for each in range(5)] == [False] * 4 + [True]
    assert restarts.exited(10_000.0, 0.0) == (LIMITS.pause_failed_s, True)


def test_exits_that_are_far_apart_are_never_too_often() -> None:
    restarts = Restarts(LIMITS)
    assert not any(restarts.exited(each * 200.0, 0.0)[1] for each in range(20))


def test_a_server_that_became_ready_after_it_was_given_up_is_restarted_as_before() -> None:
    restarts = Restarts(LIMITS)
    for each in range(5):
        restarts.exited(each, 0.0)
    restarts.became_ready()
    assert restarts.exited(10_000.0, 0.0)[1] is False
