"""What claims need of the broker."""

from __future__ import annotations

from typing import Protocol


class Topic(Protocol):
    """The topic of claims (supervisor.broker.Broker)."""

    def publish_claims(self, number: int, message: bytes) -> None:
        """Send a message; ClaimsStored(number, fault) follows."""

    def read_claims(self, reach_s: float, remember_s: float) -> None:
        """Read what was published in the last so many seconds, and what is published from now on; 0: end to read.
        ClaimsRead follows for each message, and is remembered for remember_s seconds.
        """
