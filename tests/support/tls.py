"""A certificate for 127.0.0.1 and localhost that nobody trusts, and its key: for upstreams that speak TLS in tests.

Signed by itself, good from 2020 to 2120. A client that is to trust it is given `CERTIFICATE` as its authority.
The key protects nothing: it exists for this file.
"""

from __future__ import annotations

import ssl
from pathlib import Path

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdjCCAR2gAwIBAgIBAjAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKchdv3pz7ahr1R5
5iRVMwbpG3WeuweRfM5npD9UxZY8ymz0DBUXNnokir7qjCJTPhEQ5L3I9g2oKlop
3aTcv8CjXjBcMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MA4GA1UdDwEB/wQEAwIChDAdBgNVHQ4EFgQUN4B1Mk3rXrS7HxvY0ztz
dpHjdG8wCgYIKoZIzj0EAwIDRwAwRAIgLoAFyTEIqs2C2WrdNomnGwpW+ZkApDYi
TJqReiQ6OpICIARVNEJaw4vKPVjNIRq0jx2iIaKtD9ILf35t0gpAuZmB
-----END CERTIFICATE-----
"""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQglKG0r7RzjYylFgjS
hBkU5Jc3qHKfouBp0Kkh4o0jtdahRANCAASnIXb96c+2oa9UeeYkVTMG6Rt1nrsH
kXzOZ6Q/VMWWPMps9AwVFzZ6JIq+6owiUz4REOS9yPYNqCpaKd2k3L/A
-----END PRIVATE KEY-----
"""


def server_context(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context with this certificate, and the path of an authority file for clients that trust it.

    Args:
        folder: where the files are written that `ssl` wants to read.
    """
    authority = folder / "authority.pem"
    authority.write_text(CERTIFICATE)
    whole = folder / "server.pem"
    whole.write_text(KEY + CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(whole)
    return context, authority
