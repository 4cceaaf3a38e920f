"""Where a connection goes: TLS or not, host, port. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult


class Origin(NamedTuple):
    """One server. Requests to the same origin can share connections."""

    secure: bool  # over TLS
    host: str  # a name or an IP address; an IPv6 address without brackets
    port: int

    @classmethod
    def of(cls, url: SplitResult) -> Origin:
        """Return the origin of an http or https URL."""
        secure = url.scheme == "https"
        return cls(secure, url.hostname or "", url.port or (443 if secure else 80))

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110, 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"
