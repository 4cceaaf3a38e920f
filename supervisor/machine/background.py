"""Reads the machine on a thread of its own, so that a file that blocks does not stop the supervisor's main thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from supervisor.machine.resources import Resources, Sampler


class BackgroundSampler:
    """Keeps the newest reading of the machine."""

    def __init__(
        self, interval_s: float, read: Callable[[], Resources] | None = None, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Read once, then start the thread.

        Args:
            interval_s: seconds between two readings (SAMPLE_INTERVAL).
            read: reads the machine; a Sampler's `sample` without it.
            wait: waits between two readings.
        """
        self._interval_s, self._read, self._wait = interval_s, read or Sampler().sample, wait
        self._latest = self._read()
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def latest(self) -> Resources:
        """Return the newest reading. It is old while a reading blocks."""
        return self._latest

    def _run(self) -> None:
        while True:
            self._wait(self._interval_s)
            self._latest = self._read()
