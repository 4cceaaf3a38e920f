"""When a node reads the topic of claims, and from which moment on. Pure."""

from __future__ import annotations

from supervisor.claims.topic import Topic

# Seconds before the publication of a message from which on its claims are read: claims are found by the clocks of the
# nodes that have published them, which differ. --check calls a clock that is wrong by 10 s a fault.
MARGIN = 30.0
READ_ON = MARGIN  # seconds that claims are read on when nothing needs them: no more than beginning again would cost
# Seconds beyond keep_s for which the topic has its claims (supervisor.broker.claims_topic.TRIM_MARGIN).
STORED_BEYOND = 3600.0
NEVER = float("inf")


class Reading:
    """Reads only while claims are needed, and only from shortly before the publication of the message they are needed
    for: no claim of its task is older. A busy model has some hundred messages with claims a second.

    If an older message follows, all claims are read that may matter, and are remembered longer, so that a row of ever
    older messages does not begin it again with each. And a message may come again long after it was answered: its ack
    was lost, and no node has taken messages since. Then the claims are read from before its publication on.

    Attributes:
        is_on: the topic is read.
        remember_s: seconds for which a claim is to be remembered once it was read.
        has_start: the messages that come begin with the first that was asked for.

    Args:
        topic: reads.
        keep_s: seconds that a claim may matter.
    """

    def __init__(self, topic: Topic, keep_s: float) -> None:
        self._topic = topic
        self._keep_s = keep_s
        self._until = 0.0  # monotonic: claims are read until then, if nothing needs them
        self._begun_at = 0.0  # monotonic: when the topic was asked for
        self._since = 0.0  # monotonic: its claims were asked for from this moment on
        self._wanted_since = NEVER  # monotonic: they are needed from this moment on
        self.is_on = False
        self.remember_s = keep_s
        self.has_start = False

    def want(self, moment: float) -> None:
        """The claims of a message are needed that was published at this moment (monotonic) or later."""
        self._wanted_since = min(self._wanted_since, moment - MARGIN)

    def started(self, now: float) -> None:
        """The reader is open. If it was made anew, and begins too late for what waits, `tick` begins again."""
        self.has_start = not self._begins_too_late(now)

    def tick(self, now: float, is_needed: bool) -> bool:
        """Begin to read, end, or begin again with an earlier moment, if it is time for that.

        Args:
            now: monotonic.
            is_needed: something waits for what the claims show.

        Returns:
            True if it has done so: what was read before is to be forgotten.
        """
        if is_needed:
            self._until = now + READ_ON
        was_on, self.is_on = self.is_on, now < self._until
        is_to_change = was_on is not self.is_on or (self.is_on and self._begins_too_late(now))
        if is_to_change:
            self.has_start = False
            wanted = self._wanted(now)
            reads_all = was_on or wanted == NEVER
            self._begun_at, self._since = now, min(wanted, now - self._keep_s) if reads_all else wanted
            self.remember_s = min(self._keep_s, now - self._since + MARGIN)
            self._topic.read_claims(now - self._since if self.is_on else 0.0, self.remember_s)
        self._wanted_since = NEVER
        return is_to_change

    def _wanted(self, now: float) -> float:
        return max(self._wanted_since, now - self._keep_s - STORED_BEYOND)

    def _begins_too_late(self, now: float) -> bool:
        known_since = self._since if now < self._begun_at + self.remember_s else now - self.remember_s
        return self._wanted(now) < known_since - MARGIN / 2  # a rounding error must not begin it again and again
