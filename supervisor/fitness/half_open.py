"""Half-open probing: one task at a time is tried upstream, at growing intervals. Pure (spec 5).

Every `now` is monotonic seconds.
"""

from __future__ import annotations

from supervisor.fitness.decisions import Gate
from supervisor.states import Intake

FIRST_INTERVAL = 1.0  # seconds (spec 5)
LONGEST_INTERVAL = 60.0  # seconds (spec 5)
GROWTH = 2.0
# A probe of which nothing is heard for so long is taken as lost; no task takes as long.
PROBE_LOST = 600.0  # seconds
# An unfit node takes fresh tasks slowly, so that fit nodes on the same topic get nearly all of them; a task as old as
# this waits because nobody else comes for it, and is taken without a pause, so that no client waits for its error.
FRESH = 2.0  # seconds since publishing
FRESH_PAUSE = 0.2  # seconds
# A probe may be a task with a long answer: a self-check is made beside it after so long, and again after twice as long.
FIRST_CHECK, LONGEST_CHECK = 1.0, 16.0  # seconds


class Probing:
    """When the next probe is due. Used while the node is unfit, or upstream is away."""

    def __init__(self) -> None:
        self.tried = 0  # probes since it began
        self.pause_until = 0.0  # no fresh task is taken before
        self._interval = FIRST_INTERVAL
        self._due_at = 0.0
        self._lost_at = 0.0  # a probe is on its way; after this time it is taken as lost
        self._check_at, self._check_wait = 0.0, FIRST_CHECK  # when a self-check is due beside the probe

    def begin(self, now: float) -> None:
        """Start anew: the first probe is due after FIRST_INTERVAL."""
        self.tried, self._interval, self._lost_at = 0, FIRST_INTERVAL, 0.0
        self._due_at, self.pause_until = now + FIRST_INTERVAL, now

    def gate(self, now: float, closed_until: float) -> Gate:
        """Return what the intake may do.

        Args:
            closed_until: nothing but probes is taken before; afterwards one task at a time, to be sent back.
        """
        if now >= closed_until:
            return Gate(Intake.ONE_AT_A_TIME, int(now >= self.pause_until), max(now, self.pause_until))
        if self.is_due(now):
            return Gate(Intake.ONE_AT_A_TIME, 1, now)
        return Gate(Intake.HOLD, 0, min(self.next_at(), closed_until))

    def make_due(self, now: float) -> None:
        """The next task is the probe, and the intervals start anew."""
        self._interval, self._lost_at = FIRST_INTERVAL, 0.0
        self._due_at = self.pause_until = now

    def is_due(self, now: float) -> bool:
        """Return whether the next task is the probe."""
        return now >= self.next_at()

    def next_at(self) -> float:
        """Return when the next probe is due; while one is on its way, when that is taken as lost."""
        return max(self._due_at, self._lost_at)

    def is_on_its_way(self, now: float) -> bool:
        """Return whether the result of a probe is awaited."""
        return now < self._lost_at

    def sent(self, now: float) -> None:
        """A task goes upstream as the probe."""
        self._lost_at = now + PROBE_LOST
        self._check_at, self._check_wait = now + FIRST_CHECK, FIRST_CHECK
        self.tried += 1

    def is_check_due(self, now: float) -> bool:
        """Return whether the probe takes so long that a self-check should show whether upstream serves."""
        return self.is_on_its_way(now) and now >= self._check_at

    def check_begun(self, now: float) -> None:
        """A self-check is made beside the probe."""
        self._check_wait = min(self._check_wait * GROWTH, LONGEST_CHECK)
        self._check_at = now + self._check_wait

    def failed(self, now: float, longest: float = LONGEST_INTERVAL) -> None:
        """The probe failed: the next one is due after twice the interval, at most `longest` seconds."""
        self._lost_at = 0.0
        self._interval = min(self._interval * GROWTH, longest)
        self._due_at = now + self._interval

    def inconclusive(self) -> None:
        """The probe ended and shows nothing about the node (its request was bad): the next task is the probe."""
        self._lost_at = 0.0

    def sent_back(self, now: float, age: float) -> None:
        """A task was sent back, `age` seconds after it was published."""
        if age < FRESH:
            self.pause_until = now + FRESH_PAUSE
