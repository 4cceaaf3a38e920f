"""Which certificates are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.support.upstream import FakeUpstream
from tests.unit.workernode.net.exchanges import LONG, ask, whole
from workernode.net.http_client import Pool
from workernode.net.origin import Origin
from workernode.net.tls import tls_context


def test_an_untrusted_certificate_is_refused(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    fake, _ = tls_upstream
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(Pool(Origin(True, "127.0.0.1", fake.port), LONG, tls_context()))
    assert not fake.requests


def test_an_authority_of_the_systems_own_is_trusted(
    tls_upstream: tuple[FakeUpstream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's own, named by SSL_CERT_FILE as everywhere."""
    fake, authority = tls_upstream
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    pool = Pool(Origin(True, "127.0.0.1", fake.port), LONG, tls_context())
    assert len(whole(pool, {"size": 100_000})) > 100_000
    assert b"[DONE]" in whole(pool, {"stream": True, "chunk_ms": 1})
    assert {one.connection for one in fake.requests} == {1}
    assert fake.requests[0].headers["host"] == fake.address
    pool.close()
