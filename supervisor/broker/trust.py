"""Which authorities are trusted when a broker shows its certificate: the same for client library and handshake."""

from __future__ import annotations

import functools
import os
import ssl
import tempfile
from pathlib import Path

import certifi

from supervisor.broker.access import Access


def tls_context(access: Access) -> ssl.SSLContext:
    """Return the TLS context for a connection by hand.

    Raises:
        OSError: a file that `access` names cannot be read or holds no certificate; `filename` says which.
    """
    try:
        if access.tls_ca:
            context = ssl.create_default_context(cafile=access.tls_ca)
        else:
            context = ssl.create_default_context()
            context.load_verify_locations(certifi.where())
    except OSError as error:  # also ssl.SSLError
        raise OSError(error.errno, str(error.strerror or error), access.tls_ca or certifi.where()) from None
    if access.tls_cert:
        try:
            context.load_cert_chain(access.tls_cert, access.tls_key or None)
        except OSError as error:
            raise OSError(error.errno, str(error.strerror or error), access.tls_cert) from None
    return context


def trust_file(access: Access) -> str:
    """Return the path of a PEM file with all trusted authorities, as the client library wants it."""
    return access.tls_ca or _system_and_certifi()


@functools.cache
def _system_and_certifi() -> str:
    """Write the system's authorities (SSL_CERT_FILE and SSL_CERT_DIR count) and certifi's into one file.

    The library takes a single file, and by itself takes certifi's: a company's own authority, which is in the system's
    store, would not be trusted. In memory where the system can do that, because there may be no disk to write on.
    """
    paths = ssl.get_default_verify_paths()
    system = [ssl.DER_cert_to_PEM_cert(each) for each in ssl.create_default_context().get_ca_certs(binary_form=True)]
    in_folder = []
    if os.environ.get(paths.openssl_capath_env) and paths.capath:  # the library of TLS reads a folder only when needed
        in_folder = [each.read_text() for each in sorted(Path(paths.capath).iterdir()) if each.is_file()]
    text = "\n".join([*dict.fromkeys([*system, *in_folder]), Path(certifi.where()).read_text()])
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("trusted-authorities")
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp(suffix=".pem")
    with open(descriptor, "w", closefd=not path.startswith("/proc/")) as file:
        file.write(text)
    return path
