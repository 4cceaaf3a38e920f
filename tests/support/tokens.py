"""A broker that asks for tokens: its conf entries, and tokens that it takes or refuses."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

SECRET = b"what the tests sign their tokens with"


def token_for(role: str, secret: bytes = SECRET, expires: float | None = None) -> str:
    """A JSON web token (HS256) by which the broker knows a client as this role.

    Args:
        secret: at least 32 bytes; what the run's broker knows, or another one, which it refuses.
        expires: seconds since the epoch; None: it does not expire.
    """
    claims = {"sub": role} if expires is None else {"sub": role, "exp": int(expires)}
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    return b".".join([signed, _base64url(hmac.digest(secret, signed, hashlib.sha256))]).decode()


def token_conf(secret: bytes) -> dict[str, str]:
    """Entries of standalone.conf: who has a token signed with this secret may come in; role "admin" may do all.

    Args:
        secret: at least 32 bytes.
    """
    return {
        "authenticationEnabled": "true",
        "authorizationEnabled": "true",
        "authenticationProviders": "org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
        "tokenSecretKey": f"data:;base64,{base64.b64encode(secret).decode()}",
        "superUserRoles": "admin",
        "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
        "brokerClientAuthenticationParameters": f"token:{token_for('admin', secret)}",
    }


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


ADMIN = token_for("admin")  # may do all
