"""What a node knows of a claim of its own. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class OwnClaim:
    """A claim of this node."""

    number: int  # of the delivery
    since: float  # monotonic: when the message was received, or its claim was sent
    is_certain: bool = True  # no other node holds it
    is_stored: bool = False
    is_known: bool = True  # False: this node may have begun or ended an answer to it before, which is not known
    is_begun: bool = False
    asked_to_end: bool = False  # its end was announced, or is about to be
