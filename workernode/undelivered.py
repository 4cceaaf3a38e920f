"""Answers that their gateway has not got yet: handed to the supervisor, which has them offered again later.

A slot must not wait for a gateway: tasks of other gateways need it.
"""

from __future__ import annotations

from collections.abc import Sequence

from workernode.errors import UpstreamFault
from workernode.facts import End, Facts
from workernode.gateway import AnswerResult, offered_until
from workernode.protocol import Decision, Kept
from workernode.task import Endpoint


class Undelivered:
    """What of one delivery the gateway has not got. Owned by one task."""

    def __init__(self) -> None:
        self._endpoint: Endpoint | None = None
        self._is_reached = False
        self._parts: tuple[bytes, ...] = ()

    def note(self, endpoint: Endpoint, result: AnswerResult, parts: Sequence[bytes]) -> AnswerResult:
        """Note how an answer reached the gateway, and return that.

        Args:
            parts: what the gateway has not got, if it has not got the answer; see Kept.parts.
        """
        if result in (AnswerResult.FAILED, AnswerResult.UNREACHABLE):
            self.keep(endpoint, result is AnswerResult.FAILED, parts)
        return result

    def keep(self, endpoint: Endpoint, is_reached: bool, parts: Sequence[bytes] = ()) -> None:
        """Have the answer offered again. The arguments are those of Kept."""
        self._endpoint, self._is_reached, self._parts = endpoint, is_reached, tuple(parts)

    def kept(self, end: End, facts: Facts, now: float) -> Kept | None:
        """Return what is to be offered again; None if the gateway has the answer, or if the time is over.

        Args:
            end: how the delivery ends if the gateway never gets it.
            now: monotonic.
        """
        if self._endpoint is None or end.decision is Decision.NAK:
            return None
        before = facts.job.kept
        until = before.until if before else offered_until(facts.job.deadline, now)
        if now >= until:
            return None
        return Kept(
            self._endpoint.server,
            self._is_reached,
            until,
            self._parts,
            facts.asked,
            "" if end.upstream_answered else end.status,
            end.decision,
            end.error,
            end.fault.info() if isinstance(end.fault, UpstreamFault) else end.fault,
            end.reason,
            end.end_reason,
        )


def end_of(kept: Kept) -> End:
    """Return how a delivery ends whose kept error was offered again."""
    return End(kept.status, kept.decision, kept.error, kept.fault, kept.reason, kept.end_reason)
