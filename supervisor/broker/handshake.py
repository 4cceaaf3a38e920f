"""Speaks the first frames of Pulsar's protocol: does a broker let us in, and which topics has it?

The client library raises Timeout, after its whole operation timeout, whether the token is refused, the port is wrong or
the broker is away (pulsar-client 3.13). And it creates a topic that it is asked to read. The first frames tell these
apart at once: pulsar.apache.org/docs/developing-binary-protocol, pulsar-common `PulsarApi.proto`.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from types import TracebackType

from supervisor.broker.access import Access
from supervisor.broker.protobuf import fields, nested, number, text
from supervisor.broker.trust import tls_context
from workernode import __version__
from workernode.redaction import hide_secrets

CONNECT, CONNECTED, ERROR, TOPICS, TOPICS_RESPONSE = 2, 3, 14, 32, 33  # BaseCommand.Type, and the field of each
ANSWERS = (CONNECTED, ERROR, TOPICS_RESPONSE)
AUTHENTICATION_ERROR = 3  # ServerError
PROTOCOL_VERSION = 12  # has what is asked here; any broker since 2.2
MOST_BYTES = 64 * 1024 * 1024  # of one frame: a namespace with half a million topics
PORTS = {"pulsar": 6650, "pulsar+ssl": 6651}
CHECK_URL = "check PULSAR_URL"
RIGHT_PORT = f"{CHECK_URL}: it wants the broker's port, mostly 6650, or 6651 with pulsar+ssl://"

Fields = list[tuple[int, "int | bytes"]]


class NoConnection(Exception):
    """The broker cannot be reached or does not let us in. The token is in none of these texts.

    Attributes:
        reason: ends a sentence that begins "no connection to Pulsar:".
        advice: what to do.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason, advice)
        self.reason, self.advice = reason, advice

    def __str__(self) -> str:
        return f"no connection to Pulsar: {self.reason}; {self.advice}"


class Session:
    """A connection to a broker that has let us in. For one thread; a context manager.

    Attributes:
        address: host:port.
        version: the broker's version as it reports it, such as "Pulsar Server4.0.8"; "" if it does not.
    """

    def __init__(self, access: Access, timeout: float) -> None:
        """Connect.

        Args:
            access: where to; if it names several brokers, they are tried in turn.
            timeout: seconds for everything that is asked of the broker; a name service that hangs can take longer.

        Raises:
            NoConnection: no broker lets us in; it is about the last one.
        """
        scheme, _, brokers = access.url.partition("://")
        hosts = brokers.rstrip("/").split(",")
        self._deadline = time.monotonic() + timeout
        self._is_oauth2 = bool(access.oauth2)
        context = own_tls_context(access) if scheme == "pulsar+ssl" else None
        token = own_token(access)
        for place, broker in enumerate(hosts):
            host, _, port = broker.partition(":")
            port = port or str(PORTS[scheme])
            self.address = f"{host}:{port}"
            try:
                self._socket = connect(host, int(port), context, timeout / len(hosts))
                # With OAuth2 only the client library can authenticate: here it is enough that somebody listens.
                self.version = "" if self._is_oauth2 else self._enter(token, "token" if token else own_method(access))
                return
            except NoConnection:
                if place == len(hosts) - 1:
                    raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def topics(self, namespace: str) -> list[str] | None:
        """Return the whole names of the persistent topics of `tenant/namespace`, partitions included.

        Returns None if the broker does not list them. It may allow us to read one all the same.

        Raises:
            NoConnection: it stopped answering.
        """
        if self._is_oauth2:
            return None
        kind, answer = self._ask(TOPICS, number(1, 1) + text(2, namespace))
        if kind != TOPICS_RESPONSE:
            return None
        return [value.decode("utf-8", "replace") for name, value in answer if name == 2 and isinstance(value, bytes)]

    def _enter(self, token: str, method: str) -> str:
        """Authenticate by one of Pulsar's methods, "" for none, and return the broker's version."""
        hello = text(1, f"WorkerNode {__version__}") + number(4, PROTOCOL_VERSION)
        if method:
            hello += text(3, token) + text(5, method)
        try:
            kind, answer = self._ask(CONNECT, hello)
            if kind == CONNECTED:
                return decoded(dict(answer).get(1))
            raise refusal(self.address, dict(answer), token)
        except NoConnection:
            self._socket.close()
            raise

    def _ask(self, kind: int, command: bytes) -> tuple[int, Fields]:
        """Send a command, and return the answer's kind and fields."""
        base = number(1, kind) + nested(kind, command)
        try:
            self._set_timeout()
            self._socket.sendall(struct.pack(">II", len(base) + 4, len(base)) + base)
            return self._answer()
        except ssl.SSLError as error:  # with TLS 1.3 a broker refuses after the handshake
            reason = f"{self.address} ends the TLS connection ({error.reason})"
            raise NoConnection(reason, "if it asks for a certificate, set PULSAR_TLS_CERT and PULSAR_TLS_KEY") from None
        except TimeoutError:
            reason = f"{self.address} takes the connection and does not answer"
            raise NoConnection(reason, "check that it is a broker, and look at its log") from None
        except (OSError, ValueError):
            raise NoConnection(f"{self.address} does not speak Pulsar's protocol", RIGHT_PORT) from None

    def _answer(self) -> tuple[int, Fields]:
        while True:
            _, size = struct.unpack(">II", self._read(8))
            if size > MOST_BYTES:
                raise ValueError("no frame of Pulsar's")
            command = dict(fields(self._read(size)))
            kind = command.get(1)
            if not isinstance(kind, int):
                raise ValueError("no command of Pulsar's")
            body = command.get(kind)
            if kind in ANSWERS and isinstance(body, bytes):  # pings and the like are not answered: we do not stay
                return kind, list(fields(body))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._set_timeout()
            piece = self._socket.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise ConnectionError("it closed the connection")
            data += piece
        return bytes(data)

    def _set_timeout(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def own_token(access: Access) -> str:
    """Return the token that authenticates us, "" without.

    Raises:
        NoConnection: it stands in a file that cannot be read.
    """
    try:
        return access.current_token()
    except OSError as error:
        reason = f"the file of the token, {error.filename}, cannot be read ({error.strerror})"
        raise NoConnection(reason, "put the token there, or correct PULSAR_TOKEN") from None


def own_method(access: Access) -> str:
    """Return Pulsar's name for the way in which we authenticate without a token; "" if we do not."""
    return "tls" if access.tls_cert and access.url.startswith("pulsar+ssl:") else ""


def own_tls_context(access: Access) -> ssl.SSLContext:
    """Return the TLS context that `access` describes.

    Raises:
        NoConnection: a file that it names cannot be used.
    """
    try:
        return tls_context(access)
    except OSError as error:
        reason = f"the certificate file {error.filename} cannot be used ({error.strerror})"
        raise NoConnection(reason, "correct PULSAR_TLS_CA, PULSAR_TLS_CERT and PULSAR_TLS_KEY: PEM files") from None


def connect(host: str, port: int, context: ssl.SSLContext | None, timeout: float) -> socket.socket:
    """Return a connection, over TLS if there is a context for it.

    Raises:
        NoConnection: there is none.
    """
    address = f"{host}:{port}"
    connection: socket.socket | None = None
    try:
        connection = socket.create_connection((host, port), timeout)
        return context.wrap_socket(connection, server_hostname=host) if context else connection
    except OSError as error:
        if connection is not None:
            connection.close()
        raise unreachable(host, address, error, timeout) from None


def unreachable(host: str, address: str, error: OSError, timeout: float) -> NoConnection:
    """Return the reason of a failed connection, and what to do about it."""
    match error:
        case socket.gaierror():
            return NoConnection(f"the host {host} has no address", f"{CHECK_URL} and the name service")
        case ssl.SSLCertVerificationError():
            reason = f"the certificate of {address} is not trusted ({error.verify_message})"
            return NoConnection(reason, "set PULSAR_TLS_CA to its authority's PEM file, or correct the certificate")
        case ssl.SSLError():
            reason = f"no TLS with {address} ({error.reason})"
            return NoConnection(reason, f"{CHECK_URL}: pulsar+ssl:// wants the broker's TLS port, mostly 6651")
        case ConnectionRefusedError():
            return NoConnection(f"nothing listens at {address}", "start the broker, or correct PULSAR_URL")
        case TimeoutError():
            reason = f"{address} does not answer within {timeout:.0f} s"
            return NoConnection(reason, f"{CHECK_URL}, and that no firewall is in the way")
        case _:
            return NoConnection(f"{address} cannot be reached ({error.strerror})", f"{CHECK_URL} and the network")


def refusal(address: str, answer: dict[int, int | bytes], token: str) -> NoConnection:
    """Return the reason that a broker gives in its CommandError, and what to do about it."""
    why = hide_secrets(" ".join(decoded(answer.get(3)).split()), (token,))
    reason = f"{address} refuses us ({why[:200] or 'it gives no reason'})"
    if answer.get(2) != AUTHENTICATION_ERROR:
        return NoConnection(reason, "look at the broker's log")
    if not token:
        return NoConnection(reason, "it wants a token: set PULSAR_TOKEN")
    return NoConnection(reason, "set PULSAR_TOKEN to a token that it takes and that has not expired")


def decoded(value: int | bytes | None) -> str:
    """Return the text that a field holds."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
