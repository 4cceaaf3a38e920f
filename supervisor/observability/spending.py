"""What the answers of the last hour cost, from the total since the start. Pure."""

from __future__ import annotations

from collections import deque

HOUR = 3600.0  # seconds
STEP = 60.0  # seconds between two totals that are kept


class Spending:
    """Totals of the last hour, one each minute. Moments are monotonic seconds."""

    def __init__(self) -> None:
        self._totals: deque[tuple[float, float]] = deque()  # moment, total

    def last_hour(self, now: float, total: float) -> float:
        """Return what was spent in the last hour, exact to a minute; sooner after the start: since the start.

        Args:
            total: spent since the start. To be called about once a second.
        """
        if not self._totals or now - self._totals[-1][0] >= STEP:
            self._totals.append((now, total))
        while len(self._totals) > 1 and now - self._totals[1][0] >= HOUR:
            self._totals.popleft()
        begin, before = self._totals[0]
        return total - (before if now - begin >= HOUR else 0.0)
