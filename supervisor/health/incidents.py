"""Failures that need a person: which are reported, and when they are over."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.machine import Clock
from supervisor.report import Reporter


class Incidents:
    """Failures that need a person: each is reported once, until it is over. The Reporter repeats it while it lasts."""

    def __init__(self, reporter: Reporter, note: Callable[[float, str, str], None], clock: Clock) -> None:
        """Start without an incident.

        Args:
            reporter: writes Kubernetes events, or the log.
            note: shows a report on the page; gets monotonic time, reason, message.
            clock: the time.
        """
        self._reporter = reporter
        self._note = note
        self._clock = clock
        self._open: set[str] = set()

    def begin(self, key: str, reason: str, message: str) -> None:
        """Report the failure, unless it is known already.

        Args:
            key: names the failure within this node: "broker", "workers" ...
            reason: one of spec 1.3.
            message: what happened, where, what to do.
        """
        if key not in self._open:
            self._open.add(key)
            self._reporter.begin(key, reason, message)
            self._note(self._clock.monotonic(), reason, message)

    def end(self, key: str) -> None:
        """The failure is over, if there was one."""
        if key in self._open:
            self._open.remove(key)
            self._reporter.end(key)


def why_workers_die(why: str, host: str) -> str:
    """Return the report about workers that die again and again at their start.

    Args:
        why: of the last death, as the end of a sentence.
        host: where the log is.
    """
    return f"worker processes die as soon as they start ({why}); see the log of {host}"
