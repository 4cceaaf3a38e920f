"""What a node does when the broker shows a certificate, and wants one of the node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import Testbed
from tests.support.node import Node
from tests.support.tls import KEY, server_context


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Path, str]]:
    """A broker whose certificate comes from an authority of its own, and that asks for one; its authority and URL."""
    folder = tmp_path_factory.mktemp("secured")
    _, authority = server_context(folder)
    key = folder / "key.pem"
    key.write_text(KEY)
    port = free_port()
    conf = {
        "brokerServicePortTls": str(port),
        "tlsCertificateFilePath": str(authority),
        "tlsKeyFilePath": str(key),
        "tlsTrustCertsFilePath": str(authority),
        "tlsRequireTrustedClientCertOnConnect": "true",
    }
    with Broker(find_or_get(), folder, port=free_port(), admin_port=free_port(), conf=conf) as one:
        yield one, authority, f"pulsar+ssl://127.0.0.1:{port}"


@pytest.mark.parametrize("trust", ["PULSAR_TLS_CA", "SSL_CERT_FILE"])
def test_a_broker_behind_a_companys_own_authority_is_trusted_where_it_is_named(
    secured: tuple[Broker, Path, str], build: Callable[..., Testbed], trust: str
) -> None:
    """The broker asks for a certificate of the node, too. The node and --check trust and show the same."""
    broker, authority, url = secured
    testbed = build(on=broker)
    tls = {"PULSAR_TLS_CERT": authority, "PULSAR_TLS_KEY": authority.parent / "key.pem", trust: authority}
    node = testbed.start(PULSAR_URL=url, **tls)
    assert testbed.platform.ask_and_wait("hello").text
    testbed.platform.wait_balanced()
    check = Node({**node.env, "STATUS_ADDR": "off"}, testbed.folder, ["--check", "--json"])
    check.wait_exit(60)
    findings = {each["name"]: each["mark"] for each in json.loads("\n".join(check.stdout_lines))["findings"]}
    assert {findings[name] for name in ("broker", "broker: tasks", "broker: records", "broker: claims")} == {"ok"}
    check.close()
    testbed.close_nodes()


def test_a_broker_whose_authority_is_not_trusted_is_named_with_what_to_do(
    secured: tuple[Broker, Path, str], build: Callable[..., Testbed]
) -> None:
    broker, authority, url = secured
    testbed = build(on=broker)
    tls = {"PULSAR_TLS_CERT": authority, "PULSAR_TLS_KEY": authority.parent / "key.pem"}
    testbed.start(ready=False, PULSAR_URL=url, **tls).wait_log("set PULSAR_TLS_CA", 40)
    testbed.close_nodes()


def test_a_broker_that_asks_for_a_certificate_is_named_with_what_to_do(
    secured: tuple[Broker, Path, str], build: Callable[..., Testbed]
) -> None:
    broker, authority, url = secured
    testbed = build(on=broker)
    testbed.start(ready=False, PULSAR_URL=url, PULSAR_TLS_CA=authority).wait_log("set PULSAR_TLS_CERT", 40)
    testbed.close_nodes()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the second certificate")
def test_a_client_certificate_that_is_rotated_is_read_at_the_next_connection(
    secured: tuple[Broker, Path, str], build: Callable[..., Testbed], tmp_path: Path
) -> None:
    """The node starts with one, is refused with one that the broker does not trust, and is let in with the first."""
    broker, authority, url = secured
    testbed = build(on=broker)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(authority.read_text())
    key.write_text(KEY)
    tls = {"PULSAR_TLS_CERT": certificate, "PULSAR_TLS_KEY": key, "PULSAR_TLS_CA": authority}
    node = testbed.start(PULSAR_URL=url, **tls)
    assert testbed.platform.ask_and_wait("hello").text
    stranger = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stranger", "-days", "30"]
    subprocess.run(["openssl", *stranger, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    broker.stop()
    broker.start()
    broker.wait_ready()
    node.wait_log(lambda line: "broker_down" in line and "ends the TLS connection" in line, 60)
    certificate.write_text(authority.read_text())
    key.write_text(KEY)
    node.wait_ready(60)
    assert testbed.platform.ask_and_wait("hello", timeout=60).text
    testbed.close_nodes()
