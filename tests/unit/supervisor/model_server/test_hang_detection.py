"""When a model server counts as hanging, and when its engine counts as stuck."""

from __future__ import annotations

from supervisor.model_server.hang_detection import EngineProgress, SignsOfLife
from supervisor.model_server.limits import Limits

LIMITS = Limits()


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


def test_an_engine_whose_gpu_works_is_not_stuck_for_ten_minutes() -> None:
    """A GPU that hangs may show a load of 100 %, too."""
    engine = EngineProgress(LIMITS, 0.0)
    engine.busy(5.0, 1.0, "slots")
    for second in range(10, 605, 5):
        engine.busy(second, 1.0, "slots")
        engine.gpu(second, 98.0)
        assert engine.stuck_for(second) is None
    engine.gpu(610.0, 98.0)
    assert engine.stuck_for(610.0) == 605.0


def test_an_engine_beside_a_gpu_that_rests_is_stuck() -> None:
    engine = EngineProgress(LIMITS, 0.0)
    for second in range(5, 130, 5):
        engine.busy(second, 1.0, "slots")
        engine.gpu(second, 1.0)
    assert engine.stuck_for(126.0) == 121.0


def test_an_idle_engine_is_not_stuck() -> None:
    engine = EngineProgress(LIMITS, 0.0)
    engine.busy(5.0, 1.0, "slots")
    engine.idle(1000.0)
    assert engine.stuck_for(1001.0) is None
