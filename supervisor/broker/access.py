"""Where the broker is and how this program proves who it is: what client library and handshake both need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from workernode.settings import Settings

FILE = "file:"  # as Pulsar's own tools write a token that stands in a file


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a broker. A text that is not used is "".

    Attributes:
        url: `pulsar://` or `pulsar+ssl://`; may name several brokers, separated by commas.
        token: the token that authenticates us, or `file:` and the path of the file that holds it.
        tls_ca: path of a PEM file with the only authorities that are trusted; "": the system's and certifi's.
        tls_cert, tls_key: paths of PEM files: our own certificate and its key, for mutual TLS. Without tls_key the key
            stands in tls_cert.
        oauth2: pulsar-client's parameters as a JSON object: issuer_url, private_key, audience, scope.
    """

    url: str
    token: str = field(default="", repr=False)
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    oauth2: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Return the access that the node's settings describe."""
        return cls(
            settings.pulsar_url,
            settings.pulsar_token,
            settings.pulsar_tls_ca,
            settings.pulsar_tls_cert,
            settings.pulsar_tls_key,
            settings.pulsar_oauth2,
        )

    def current_token(self) -> str:
        """Return the token; if it stands in a file, as the file has it now.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.token.startswith(FILE):
            return self.token
        return Path(self.token.removeprefix(FILE).removeprefix("//")).read_text().strip()
