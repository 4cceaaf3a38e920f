"""When a model server is restarted, when it is given up, and when it counts as hanging."""

from __future__ import annotations

from supervisor.model_server.patience import EngineProgress, Idleness, Limits, Restarts, SignsOfLife

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


def test_a_ready_server_hangs_after_45_s_without_any_sign() -> None:
    signs = SignsOfLife(LIMITS, 0.0)
    assert signs.silence_too_long(45.0, is_ready=True) is None
    assert signs.silence_too_long(45.1, is_ready=True) == 45.1


def test_cpu_time_counts_for_ten_minutes_without_an_answer() -> None:
    """A long prompt on a slow machine is no hang."""
    signs = SignsOfLife(LIMITS, 0.0)
    for second in range(5, 600, 5):
        signs.cpu(second, second / 2)
        assert signs.silence_too_long(second, is_ready=True) is None
    signs.cpu(601, 301.0)
    assert signs.silence_too_long(601, is_ready=True) == 601


def test_a_little_cpu_time_is_no_sign() -> None:
    """An idle server uses some, too."""
    signs = SignsOfLife(LIMITS, 0.0)
    for second in range(5, 51, 5):
        signs.cpu(second, second * 0.01)
    assert signs.silence_too_long(50.0, is_ready=True) == 50.0


def test_a_server_that_loads_may_be_silent_for_five_minutes_and_loading_for_two_hours() -> None:
    signs = SignsOfLife(LIMITS, 0.0)
    assert signs.silence_too_long(300.0, is_ready=False) is None
    assert signs.silence_too_long(301.0, is_ready=False) == 301.0
    for second in range(0, 7200, 100):
        signs.weak(second)
        assert signs.silence_too_long(second, is_ready=False) is None
    signs.weak(7201)
    assert signs.silence_too_long(7201, is_ready=False) == 7201


def test_output_and_tokens_and_answers_end_a_silence() -> None:
    signs = SignsOfLife(LIMITS, 0.0)
    signs.output(40.0, 10)
    assert signs.silence_too_long(80.0, is_ready=True) is None
    signs.output(80.0, 10)  # nothing was added
    assert signs.silence_too_long(86.0, is_ready=True) == 46.0
    signs.strong(86.0)
    assert signs.silence_too_long(130.0, is_ready=True) is None


def test_an_engine_that_shows_no_progress_for_two_minutes_is_stuck() -> None:
    engine = EngineProgress(LIMITS, 0.0)
    engine.busy(5.0, 1.0, "slots")
    for second in range(10, 130, 5):
        engine.busy(second, 1.0 + second * 0.001, "slots")
    assert engine.stuck_for(125.0) is None
    assert engine.stuck_for(125.1) == 125.1 - 5.0


def test_an_engine_that_uses_the_cpu_or_whose_slots_change_or_that_sends_tokens_is_not_stuck() -> None:
    engine = EngineProgress(LIMITS, 0.0)
    for second in range(5, 605, 5):
        engine.busy(second, second * 0.01, "slots")
    for second in range(605, 1205, 5):
        engine.busy(second, 6.0, f"{second} tokens of the prompt")
    for second in range(1205, 1805, 5):
        engine.busy(second, 6.0, "slots")
        engine.tokens_came(second)
    assert engine.stuck_for(1805.0) is None


def test_an_idle_engine_is_not_stuck() -> None:
    engine = EngineProgress(LIMITS, 0.0)
    engine.busy(5.0, 1.0, "slots")
    engine.idle(1000.0)
    assert engine.stuck_for(1001.0) is None


def test_a_server_is_idle_for_long_enough_only_if_no_task_was_there_meanwhile() -> None:
    idleness = Idleness(60.0)
    assert not idleness.note(100.0, 0)
    assert idleness.ends_at == 160.0
    assert not idleness.note(159.0, 1)
    assert not idleness.note(160.0, 0)
    assert not idleness.note(219.9, 0)
    assert idleness.note(220.0, 0)


def test_a_server_without_a_limit_is_never_idle_for_too_long() -> None:
    assert not Idleness(0.0).note(0.0, 0)
    assert not Idleness(0.0).note(1e9, 0)
