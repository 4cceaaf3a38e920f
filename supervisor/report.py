"""Reports to the management node (spec 1.3)."""

from __future__ import annotations

import logging

from workernode.settings import Settings

log = logging.getLogger(__name__)


class Reporter:
    """Tells people what will not pass by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def begin(self, key: str, reason: str, message: str) -> None:
        """A trouble began."""
        log.error("%s: %s", reason, message, extra={"event": "report", "reason": reason})

    def end(self, key: str) -> None:
        """It is over."""

    def close(self, timeout: float) -> None:
        """Nothing is pending."""
