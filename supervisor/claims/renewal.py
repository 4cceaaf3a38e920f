"""Claims that are published again before the other nodes forget them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.claims.outbox import ClaimOutbox
from supervisor.claims.own_claim import OwnClaim


class Renewal:
    """A record that is not stored keeps its task at this node for any time.

    Args:
        outbox: publishes for this node.
        kept_s: seconds that a claim is remembered by the other nodes.
    """

    def __init__(self, outbox: ClaimOutbox, kept_s: float) -> None:
        self._outbox = outbox
        self._interval = kept_s / 2
        self._at = 0.0  # monotonic

    def tick(self, now: float, own: Mapping[str, OwnClaim]) -> None:
        """Publish the claims of some age again, if it is time for that. `own`: by request id."""
        if now < self._at:
            return
        self._at = now + self._interval
        for request_id, claim in own.items():
            if now >= claim.since + self._interval / 2:
                self._outbox.again(request_id, claim.is_begun, claim.asked_to_end)
