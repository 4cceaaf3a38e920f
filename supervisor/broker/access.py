"""Where the broker is and how this program proves who it is. Pure: what client library and handshake both need."""

from __future__ import annotations

from dataclasses import dataclass, field

from workernode.settings import Settings


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a broker.

    Attributes:
        url: `pulsar://` or `pulsar+ssl://`; may name several brokers, separated by commas.
        token: the token that authenticates us; "" without.
    """

    url: str
    token: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Return the access that the node's settings describe."""
        return cls(settings.pulsar_url, settings.pulsar_token)
