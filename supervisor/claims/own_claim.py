"""What a node knows of a claim of its own. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.claims.look_ups import Finding, Found


@dataclass(slots=True)
class OwnClaim:
    """A claim of this node."""

    number: int  # of the delivery
    since: float  # monotonic: when the message was received, or its claim was sent
    earliest: float  # monotonic: no claim of the task is older (events.Received.earliest)
    is_certain: bool = True  # no other node holds it
    is_stored: bool = False
    is_known: bool = True  # False: this node may have begun or ended an answer to it before, which is not known
    is_begun: bool = False
    has_begun_unasked: bool = False  # it may have begun while claims were off, which is not stored in the topic yet
    asked_to_end: bool = False  # its end was announced, or is about to be


def own_claim_of(found: Found, now: float, earliest: float, is_off: bool) -> OwnClaim:
    """Return the claim of a task that was looked up and is this node's now.

    Args:
        now: monotonic.
        earliest: monotonic; no claim of the task is older.
        is_off: claims cannot be used.
    """
    is_known = found.finding is not Finding.NOT_KNOWN
    since = found.claimed_at if is_known else now
    is_begun = is_off or found.finding is Finding.END_STREAM
    return OwnClaim(found.number, since, earliest, is_known, is_known, is_known, is_begun, has_begun_unasked=is_off)
