"""Whether a text ends with what may be the beginning of a stop sequence. Pure.

Upstream looks for a stop sequence in what one call produces. One that began before a break would not be found, so that
its beginning is held back until it is known to be none.
"""

from __future__ import annotations


class StopSequences:
    """The `stop` of one chat request.

    Args:
        stop: as the client sent it: a text, a list of texts, or anything else.
    """

    def __init__(self, stop: object) -> None:
        texts = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
        self._beginnings = tuple(
            {text[:length] for text in texts if isinstance(text, str) for length in range(1, len(text))}
        )
        self.longest = max(map(len, self._beginnings), default=0)  # characters of a beginning

    def may_begin_at_the_end_of(self, text: str) -> bool:
        """Return whether the text ends with the beginning of a stop sequence."""
        return text.endswith(self._beginnings) if self._beginnings else False
