"""What can go wrong with a connection, beside OSError and the exceptions of http.client. A leaf."""

from __future__ import annotations


class ConnectTimeout(TimeoutError):
    """The connection, or its TLS handshake, took too long: nothing was sent over it."""


class Silence(TimeoutError):
    """Nothing came for the longest silence that is allowed."""


class AnswerTooLarge(ValueError):
    """The answer is larger than MAX_ANSWER of workernode/net/http_client.py."""
