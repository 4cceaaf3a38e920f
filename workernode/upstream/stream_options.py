"""Whether a stream is asked for its usage (`stream_options`): an upstream that refuses it is asked without for a while.

Not for good: one address may have several servers behind it, of which some refuse (one-api#2187, new-api PR #2909), and
one refusal may have had another reason. Pure; the clock is passed in.
"""

from __future__ import annotations

FIRST_PAUSE = 15.0  # seconds without `stream_options` after a refusal
LONGEST_PAUSE = 600.0  # seconds; the pause doubles with each refusal that follows


class StreamOptions:
    """What one upstream does with `stream_options`. The tasks of a worker share it; a lost update does no harm."""

    def __init__(self) -> None:
        self._without_until = float("-inf")  # monotonic
        self._pause = FIRST_PAUSE

    def are_asked(self, now: float) -> bool:
        """Whether the next stream is asked for with `stream_options`."""
        return now >= self._without_until

    def accepted(self) -> None:
        """A stream with `stream_options` was answered."""
        self._pause = FIRST_PAUSE

    def refused(self, now: float) -> None:
        """A stream was refused with `stream_options`, and answered without."""
        self._without_until = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
