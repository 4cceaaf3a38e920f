"""A certificate for 127.0.0.1, localhost and upstream.test that nobody trusts, and its key: for TLS in tests.

Signed by itself, good from 2020 to 2120. A client that is to trust it is given `CERTIFICATE` as its authority.
The key protects nothing: it exists for this file.
"""

from __future__ import annotations

import ssl
from pathlib import Path

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBjjCCATSgAwIBAgIBAjAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA11cHN0cmVh
bS50ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA11cHN0cmVhbS50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzfY7
fZHDZoDf+5jXp1oKisuQzcgLBWCRfbZ5oI3rgMy8W50WMukjD3asKZBGSivFkggp
6ogHoWJQnehHXxxyK6NtMGswKQYDVR0RBCIwIIINdXBzdHJlYW0udGVzdIIJbG9j
YWxob3N0hwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgKEMB0G
A1UdDgQWBBQ0ixsAS7Y/VN+/8WV+5JbcWZHM3zAKBggqhkjOPQQDAgNIADBFAiBp
9A568+vh0nOAj4D74EjuPXF6TC6WUWDutOL/4ffK6wIhAIkvUcEG6gJ/RDH+geU/
YSCGu19M6wpWM3q2XOj65m4V
-----END CERTIFICATE-----
"""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQge6UPlHgx9zCO07IZ
ISymARhTpj42jiYkI6wGIvxdt0ahRANCAATN9jt9kcNmgN/7mNenWgqKy5DNyAsF
YJF9tnmgjeuAzLxbnRYy6SMPdqwpkEZKK8WSCCnqiAehYlCd6EdfHHIr
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
