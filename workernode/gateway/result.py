"""How an answer reached the gateway. Pure."""

from __future__ import annotations

from enum import Enum


class AnswerResult(Enum):
    """How an answer reached the gateway, or why it did not."""

    TAKEN = "taken"  # the gateway has it
    CLIENT_GONE = "client_gone"  # the gateway reports that nobody waits for it
    UNCONFIRMED = "unconfirmed"  # it was sent, and the gateway answered nothing
    UNREACHABLE = "unreachable"  # the gateway cannot be reached
    FAILED = "failed"  # the gateway was reached, and did not take it: it may in a while
    REFUSED = "refused"  # the gateway answers that it does not take it


def is_final(status: int) -> bool:
    """Return whether a gateway that refuses with this HTTP status will not answer otherwise in a while.

    Args:
        status: 0 if what it answered was no HTTP.
    """
    return 0 < status < 500 and status not in (408, 425, 429)
