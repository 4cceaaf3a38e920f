"""What can go wrong with a connection, beside OSError and the exceptions of http.client. A leaf."""

from __future__ import annotations


class ConnectTimeout(TimeoutError):
    """The connection, or its TLS handshake, took too long: nothing was sent over it."""


class ProxyRefused(ConnectionError):
    """The proxy did not connect to the server."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy answered {status}")
        self.status = status

    def __reduce__(self) -> tuple[type[ProxyRefused], tuple[int]]:
        return ProxyRefused, (self.status,)


class Silence(TimeoutError):
    """Nothing came for the longest silence that is allowed."""


class AnswerTooLarge(ValueError):
    """The answer is larger than MAX_ANSWER of workernode/net/exchange.py."""
