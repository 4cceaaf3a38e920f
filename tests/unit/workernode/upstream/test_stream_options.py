"""When a stream is asked for its usage, after upstream has refused `stream_options`."""

from __future__ import annotations

from workernode.upstream.stream_options import FIRST_PAUSE, LONGEST_PAUSE, StreamOptions


def test_usage_is_asked_for_from_the_start() -> None:
    assert StreamOptions().are_asked(0.0)


def test_a_refusal_ends_it_for_a_while() -> None:
    options = StreamOptions()
    options.refused(100.0)
    assert not options.are_asked(100.0 + FIRST_PAUSE - 0.1)
    assert options.are_asked(100.0 + FIRST_PAUSE)


def test_the_pause_doubles_with_each_refusal_up_to_a_limit() -> None:
    options, now, pauses = StreamOptions(), 0.0, []
    for _ in range(10):
        options.refused(now)
        pause = next(p for p in range(1, 10_000) if options.are_asked(now + p))
        pauses.append(float(pause))
        now += pause
    assert pauses[:3] == [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4]
    assert pauses[-1] == LONGEST_PAUSE


def test_an_answer_with_usage_makes_the_next_pause_short_again() -> None:
    options = StreamOptions()
    options.refused(0.0)
    options.refused(100.0)
    options.accepted()
    options.refused(200.0)
    assert options.are_asked(200.0 + FIRST_PAUSE)
