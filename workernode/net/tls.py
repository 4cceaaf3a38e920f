"""The TLS context of every HTTP and WebSocket connection: which authorities are trusted. Certificates are always
verified (spec 7).
"""

from __future__ import annotations

import os
import ssl

import certifi

# Files of further authorities, as requests and curl read them. SSL_CERT_FILE is read by OpenSSL itself.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def tls_context(ca: str = "") -> ssl.SSLContext:
    """Return a TLS context that verifies certificates: by the system's authorities, certifi's and CA_VARIABLES'.

    Args:
        ca: the path of a PEM file, or of a folder of hashed ones, with further authorities; "" for none.

    Raises:
        OSError: such a file cannot be read, or holds no certificate; `filename` says which.
    """
    context = ssl.create_default_context()
    for path in (certifi.where(), *(os.environ.get(name) for name in CA_VARIABLES), ca):
        if not path:
            continue
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise OSError(error.errno, "it holds no certificate in PEM", path) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
    return context
