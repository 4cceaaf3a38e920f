"""The errors for a broker that cannot be reached or refuses. The brokers here are scripts of a few bytes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.ports import free_port
from supervisor.broker import Access, protobuf, trust
from supervisor.broker.handshake import CONNECTED, ERROR, TOPICS_RESPONSE, NoConnection, Session
from tests.support.tls import server_context

TOKEN = "eyJhbGciOiJIUzI1NiJ9.canary"
TIMEOUT = 10
PING = 18  # BaseCommand.Type


def frame(kind: int, body: bytes) -> bytes:
    """A command as a broker sends it."""
    command = protobuf.number(1, kind) + protobuf.nested(kind, body)
    return struct.pack(">II", len(command) + 4, len(command)) + command


@contextmanager
def broker(answers: list[bytes], received: list[bytes] | None = None) -> Iterator[str]:
    """A broker that gives these answers, one to each read, and then closes. Gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for answer in answers:
                    data = connection.recv(65536)
                    if received is not None:
                        received.append(data)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"pulsar://127.0.0.1:{server.getsockname()[1]}"
        thread.join(TIMEOUT)


def refused(code: int, why: str) -> bytes:
    return frame(ERROR, protobuf.number(1, 2**64 - 1) + protobuf.number(2, code) + protobuf.text(3, why))


def test_a_broker_that_accepts_the_client_shows_its_version_and_topics() -> None:
    names = [f"persistent://public/default/t-{number}" for number in range(300)]
    listed = b"".join(protobuf.text(2, name) for name in names)
    received: list[bytes] = []
    answers = [frame(CONNECTED, protobuf.text(1, "Pulsar 4.0.8")), frame(PING, b"") + frame(TOPICS_RESPONSE, listed)]
    with broker(answers, received) as url, Session(Access(url, TOKEN), TIMEOUT) as session:
        assert session.version == "Pulsar 4.0.8"
        assert session.topics("public/default") == names
    hello = dict(protobuf.fields(received[0][8:]))
    connect = hello[2]
    assert isinstance(connect, bytes)
    fields = dict(protobuf.fields(connect))
    assert (fields[3], fields[5]) == (TOKEN.encode(), b"token")


@pytest.mark.parametrize(
    ("answers", "token", "expected", "advice"),
    [
        ([refused(3, f"no  such {TOKEN}\n key")], TOKEN, r"refuses us \(no such \*\*\* key\)", "set PULSAR_TOKEN to"),
        ([refused(3, "who?")], "", r"refuses us \(who\?\)", "it wants a token: set PULSAR_TOKEN"),
        ([refused(5, "")], TOKEN, r"refuses us \(it gives no reason\)", "the broker's log"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "", "does not speak Pulsar", "mostly 6650"),
        ([b""], "", "does not speak Pulsar", "mostly 6650"),
        ([struct.pack(">II", 8, 4) + b"\xff\xff\xff\xff"], "", "does not speak Pulsar", "mostly 6650"),
        ([frame(CONNECTED, b"\x0a\x7f")], "", "does not speak Pulsar", "mostly 6650"),
    ],
    ids=["token", "no token", "another refusal", "a web server", "closed", "no protobuf", "half a message"],
)
def test_a_refusal_says_what_to_do(answers: list[bytes], token: str, expected: str, advice: str) -> None:
    pattern = f"^no connection to Pulsar: .*{expected}.*{advice}"
    with broker(answers) as url, pytest.raises(NoConnection, match=pattern) as caught:
        Session(Access(url, token), TIMEOUT)
    assert not token or token not in str(caught.value)


def test_a_broker_that_is_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"pulsar://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(NoConnection, match="takes the connection and does not answer"):
            Session(Access(url), 0.2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (lambda: f"pulsar://127.0.0.1:{free_port()}", "nothing listens at 127.0.0.1:[0-9]+; start the broker"),
        (lambda: "pulsar://no.such.host.invalid", "the host no.such.host.invalid has no address"),
        (lambda: f"pulsar+ssl://127.0.0.1:{free_port()}", "nothing listens"),
    ],
    ids=["nobody there", "no such host", "nobody there, TLS"],
)
def test_a_broker_that_cannot_be_reached_says_what_to_do(url: Callable[[], str], expected: str) -> None:
    with pytest.raises(NoConnection, match=expected):
        Session(Access(url()), TIMEOUT)


def test_tls_against_a_plain_port_says_so() -> None:
    expected = r"no TLS with .*pulsar\+ssl:// wants the broker's TLS port"
    with broker([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as url, pytest.raises(NoConnection, match=expected):
        Session(Access(url.replace("pulsar://", "pulsar+ssl://")), TIMEOUT)


def test_of_several_brokers_the_first_that_lets_us_in_is_taken() -> None:
    with broker([frame(CONNECTED, protobuf.text(1, "second"))]) as url:
        both = f"pulsar://127.0.0.1:{free_port()},{url.removeprefix('pulsar://')}"
        with Session(Access(both), TIMEOUT) as session:
            assert session.version == "second"


def test_a_token_in_a_file_is_read_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        received: list[bytes] = []
        access = Access("", f"file://{file}")
        with broker([frame(CONNECTED, b"")], received) as url, Session(replace(access, url=url), TIMEOUT):
            assert token.encode() in received[0]


def test_a_token_file_that_is_not_there_is_named() -> None:
    with pytest.raises(NoConnection, match=r"the file of the token, /nowhere, cannot be read .*correct PULSAR_TOKEN"):
        Session(Access("pulsar://127.0.0.1:1", "file:/nowhere"), TIMEOUT)


@pytest.mark.parametrize("part", ["tls_ca", "tls_cert"])
@pytest.mark.parametrize("content", [None, "no certificate"], ids=["not there", "no certificate"])
def test_a_certificate_file_that_cannot_be_used_is_named(tmp_path: Path, part: str, content: str | None) -> None:
    file = tmp_path / "some.pem"
    if content:
        file.write_text(content)
    access = Access("pulsar+ssl://127.0.0.1:1", **{part: str(file)})
    with pytest.raises(NoConnection, match=f"the certificate file {file} cannot be used"):
        Session(access, TIMEOUT)


def test_with_oauth2_a_listening_broker_is_enough() -> None:
    """Only the client library can authenticate in this way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"pulsar://127.0.0.1:{server.getsockname()[1]}"
        with Session(Access(url, oauth2='{"issuer_url": "https://a", "private_key": "/b"}'), TIMEOUT) as session:
            assert session.topics("public/default") is None


@pytest.mark.parametrize("trusted", ["PULSAR_TLS_CA", "system", "nobody"])
def test_a_companys_own_authority_is_trusted_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    context, authority = server_context(tmp_path)
    if trusted == "system":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    trust._system_and_certifi.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65536)
                secured.sendall(frame(CONNECTED, protobuf.text(1, "secured")))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ca = str(authority) if trusted == "PULSAR_TLS_CA" else ""
        access = Access(f"pulsar+ssl://127.0.0.1:{server.getsockname()[1]}", tls_ca=ca)
        for_library = Path(trust.trust_file(access)).read_text()
        assert (authority.read_text() in for_library) is (trusted != "nobody")
        assert ca or Path(certifi.where()).read_text() in for_library
        if trusted == "nobody":
            with pytest.raises(NoConnection, match=r"is not trusted .*set PULSAR_TLS_CA"):
                Session(access, TIMEOUT)
        else:
            with Session(access, TIMEOUT) as session:
                assert session.version == "secured"
        thread.join(TIMEOUT)
    trust._system_and_certifi.cache_clear()


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary()))))
def test_what_is_encoded_is_read_back(written: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(
        protobuf.number(name, value) if isinstance(value, int) else protobuf.nested(name, value)
        for name, value in written
    )
    assert list(protobuf.fields(data)) == written


@given(st.binary())
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        list(protobuf.fields(data))
    except ValueError:
        pass
