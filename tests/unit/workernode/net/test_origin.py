"""Origins: where a connection goes, and the Host header for it."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from workernode.net.origin import Origin


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://example.org/v1", Origin(False, "example.org", 80)),
        ("https://example.org/v1", Origin(True, "example.org", 443)),
        ("https://example.org:80/v1", Origin(True, "example.org", 80)),
        ("http://[fd00::1]:8080/v1", Origin(False, "fd00::1", 8080)),
    ],
)
def test_the_origin_of_a_url(url: str, origin: Origin) -> None:
    assert Origin.of(urlsplit(url)) == origin


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (Origin(False, "127.0.0.1", 80), "127.0.0.1"),
        (Origin(False, "127.0.0.1", 8080), "127.0.0.1:8080"),
        (Origin(True, "example.org", 443), "example.org"),
        (Origin(True, "example.org", 80), "example.org:80"),
        (Origin(False, "::1", 8080), "[::1]:8080"),
    ],
)
def test_the_host_header_names_the_port_where_it_is_not_the_schemes_own(origin: Origin, host: str) -> None:
    """RFC 9110, 7.2; an IPv6 address stands in brackets."""
    assert origin.authority == host
