"""Upstreams that repeat the text so far before they go on: Mistral does so with `prefix`, DeepSeek does not. Pure."""

from __future__ import annotations

# A shorter text may also be repeated by chance ("ha" in "ha ha"): with it nobody can tell an echo from an answer.
SHORTEST = 16  # characters


class Echo:
    """Takes the repeated text out of the beginning of one answer.

    Args:
        text: the text so far; "": nothing can be repeated.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._matched = ""

    @property
    def is_over(self) -> bool:
        """No more of what comes can be an echo."""
        return not self._text

    def take_out(self, text: str, *, is_last: bool) -> str:
        """Return what of the text is new; text that may be an echo is kept until that is known.

        Args:
            text: of the next chunk.
            is_last: the answer ends with this chunk.
        """
        seen = self._matched + text
        if seen.startswith(self._text):
            new, self._text, self._matched = seen[len(self._text) :], "", ""
            return new
        if self._text.startswith(seen) and not is_last:
            self._matched = seen
            return ""
        self._text = self._matched = ""
        return seen
