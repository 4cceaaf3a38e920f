"""What is known of asking upstream, over the parts of a stream."""

from __future__ import annotations

from workernode.call_stats import CallStats


def test_a_part_that_broke_is_kept_and_the_next_begins_without_its_answer() -> None:
    stats = CallStats()
    stats.begin_attempt(1.0)
    stats.first_at, stats.text_chunks, stats.model, stats.usage = 2.0, 3, "m", {"completion_tokens": 3}
    stats.part_broke("stream_cut", 4.0, 3)
    assert [stats.text_chunks, stats.usage, stats.model, stats.first_at] == [0, None, None, None]
    stats.begin_attempt(5.0)
    stats.first_at = 6.0
    assert (stats.attempts, stats.sent_at, stats.began_at, stats.first_token_at) == (2, 5.0, 1.0, 2.0)
    (part,) = stats.broken
    assert (part.reason, part.at, part.tokens, part.text_chunks, part.model) == ("stream_cut", 4.0, 3, 3, "m")


def test_an_attempt_that_is_repeated_forgets_the_answer_of_the_last_one() -> None:
    stats = CallStats(text_chunks=3, http_status=200, done_at=1.0)
    stats.begin_attempt(5.0)
    assert (stats.text_chunks, stats.http_status, stats.done_at, stats.began_at) == (0, 0, None, 5.0)
