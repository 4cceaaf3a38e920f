"""The broker killed, absent, cut off, forbidding: no restart of the node is needed, and nothing is lost."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pulsar
import pytest

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import Testbed, one_end_each, patched
from tests.support.node import Node
from tests.support.paths import ROOT
from tests.support.platform import Broker as AnyBroker
from tests.support.platform import Platform
from tests.support.tls import KEY, server_context
from tests.support.tokens import token_conf, token_for
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

STANDIN = ROOT / "tests" / "support" / "llamafile_standin.py"

DEAF = 3.0  # seconds
# A minute is long for a test.
SOON = "supervisor.health.REPORT_AFTER = 4.0\nsupervisor.broker.connection.OPERATION_TIMEOUT = 1"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that tests may kill; each leaves it running."""
    with Broker(find_or_get(), tmp_path_factory.mktemp("mortal"), port=free_port(), admin_port=free_port()) as one:
        yield one


@dataclass
class Outage:
    """One outage of the broker: what it does to a node that has work, and to one that comes meanwhile."""

    testbed: Testbed  # its node has work when the broker is killed
    ids: list[str]
    later: Testbed  # its node is started while the broker is away
    waiting: str  # the id of a task that was published before
    report: dict[str, Any]  # the report of that node when it lasts


@pytest.fixture(scope="module")
def outage(mortal: Broker, build: Callable[..., Testbed], tmp_path_factory: pytest.TempPathFactory) -> Outage:
    """Kill the broker under load, start a node without it, and start it again."""
    testbed, later = build(on=mortal), build(on=mortal)
    waiting = later.platform.ask("before the node")
    node = testbed.start()
    slow = {"latency_ms": 200, "chunks": 5, "chunk_ms": 20}
    ids = testbed.platform.ask_many([slow] * 150) + testbed.platform.ask_many([slow] * 150, stream=True)
    until(lambda: sum(one.done.is_set() for one in testbed.gateway.answers) > 60, 40, "load")
    mortal.kill()
    assert "Pulsar" in node.wait_not_ready()
    late = later.start(ready=False, command=patched(tmp_path_factory.mktemp("late"), SOON))
    late.wait_not_ready()
    report = json.loads(late.wait_log("MessageQueueConnectionError", 30))
    mortal.start()
    mortal.wait_ready()
    return Outage(testbed, ids, later, waiting, report)


def test_killed_and_started_again_under_load_nothing_is_lost(outage: Outage) -> None:
    testbed, ids = outage.testbed, outage.ids
    testbed.node.wait_ready(60)
    testbed.platform.wait_balanced(ids, 60)
    one_end_each(testbed, ids)
    for id in ids:
        assert testbed.gateway.answer(id).error is None
    print(f"{len(ids)} tasks, {testbed.asked_twice(ids)} calls of upstream repeated")
    testbed.close_nodes()


def test_absent_at_start_it_is_waited_for_and_reported_when_it_lasts(outage: Outage) -> None:
    testbed = outage.later
    assert outage.report["level"] == "ERROR"
    assert "start the broker, or correct PULSAR_URL" in outage.report["message"]
    testbed.node.wait_ready(60)
    assert testbed.answer(outage.waiting, 40).error is None
    assert testbed.platform.ask_and_wait("after it").text
    testbed.platform.wait_balanced()
    assert sum(line.get("reason") == "MessageQueueConnectionError" for line in testbed.node.logs()) == 1
    testbed.close_nodes()


def test_a_broker_that_does_not_answer_for_a_while_loses_nothing(mortal: Broker, build: Callable[..., Testbed]) -> None:
    """The broker's process is stopped: the connection stands, and nobody answers on it."""
    testbed = build(on=mortal)
    node = testbed.start()
    held = [{"gate": "deaf"}] * 10
    plain, streams = testbed.platform.ask_many(held), testbed.platform.ask_many(held, stream=True)
    ids = plain + streams
    testbed.upstream.wait_for_waiting("deaf", len(ids))
    pid = mortal.pid
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    try:
        testbed.upstream.open_gate("deaf")
        testbed.gateway.wait_all(plain)  # plain answers do not need the broker; streams wait for their claims
        stopped_at = time.monotonic()
        until(lambda: time.monotonic() - stopped_at > DEAF, 30, "end of the deafness")
    finally:
        os.killpg(pid, signal.SIGCONT)
    testbed.platform.wait_balanced(ids)
    one_end_each(testbed, ids)
    assert testbed.asked_twice(ids) == 0
    assert node.running
    testbed.close_nodes()


def test_a_topic_taken_from_under_its_consumers_loses_nothing(build: Callable[..., Testbed]) -> None:
    """The broker unloads the topic, as it does to move it to another broker, under a node that has work."""
    testbed = build()
    node = testbed.start()
    ids = []
    for _ in range(3):
        ids += testbed.platform.ask_many([{"latency_ms": 300}] * 20)
        ids += testbed.platform.ask_many([{"latency_ms": 300}] * 20, stream=True)
        testbed.upstream.wait_until(lambda: testbed.upstream.inflight > 10, 20, "load")
        topic = f"persistent/public/default/{testbed.platform.topic}"
        testbed.platform.admin("PUT", f"{topic}/unload")
    testbed.platform.wait_balanced(ids)
    one_end_each(testbed, ids)
    assert testbed.asked_twice(ids) == 0
    assert node.running
    testbed.close_nodes()


SECRET = secrets.token_bytes(32)
ADMIN = token_for("admin", SECRET)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that asks for tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    ports = {"port": free_port(), "admin_port": free_port()}
    conf = {**token_conf(SECRET), "authenticationRefreshCheckSeconds": "1"}
    with Broker(find_or_get(), folder, conf=conf, token=ADMIN, **ports) as one:
        yield one


class GuardedTestbed(Testbed):
    """A testbed on a broker that asks for tokens; its node's role may do what it is granted."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.client = pulsar.Client(
            broker.url,
            authentication=pulsar.AuthenticationToken(ADMIN),
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
        )
        self.role = f"node-{secrets.token_hex(4)}"
        super().__init__(broker, folder, {"PULSAR_TOKEN": token_for(self.role, SECRET)})
        self.platform.admin("PUT", f"persistent/public/default/{self.platform.dead_letter_topic}")

    def _platform(self, broker: AnyBroker) -> Platform:
        side = Platform(broker, self.gateway, client=self.client)
        side._http.headers["Authorization"] = f"Bearer {ADMIN}"
        return side

    def grant(self, topic: str, *rights: str) -> None:
        """Give the node's role these rights on the topic; none takes them away."""
        path = f"persistent/public/default/{topic}/permissions/{self.role}"
        if rights:
            self.platform.admin("POST", path, json=list(rights))
        else:
            self.platform.admin("DELETE", path)

    def grant_all(self) -> None:
        """All that a node needs."""
        self.grant(self.platform.topic, "consume")
        self.grant(self.platform.res_topic, "produce")
        self.grant(self.platform.dead_letter_topic, "produce", "consume")

    def close(self) -> None:
        super().close()
        self.client.close()


@pytest.fixture
def locked(guarded: Broker, tmp_path: Path) -> Iterator[GuardedTestbed]:
    """A testbed on a broker that asks for tokens."""
    one = GuardedTestbed(guarded, tmp_path)
    yield one
    one.close()


def test_a_wrong_token_is_logged_and_reported_if_it_lasts(locked: GuardedTestbed, tmp_path: Path) -> None:
    wrong = token_for("admin", secrets.token_bytes(32))
    node = locked.start(False, patched(tmp_path, SOON), PULSAR_TOKEN=wrong)
    report = node.wait_log("MessageQueueConnectionError", 40)
    assert "set PULSAR_TOKEN" in report
    assert node.running
    assert wrong not in node.output


def test_a_topic_that_is_not_permitted_is_served_once_it_is(locked: GuardedTestbed, tmp_path: Path) -> None:
    locked.grant(locked.platform.res_topic, "produce")
    id = locked.platform.ask("hello")
    node = locked.start(False, patched(tmp_path, SOON))
    report = node.wait_log("MessageQueueConnectionError", 40)
    assert "no right" in report
    assert locked.platform.topic in report
    locked.grant_all()
    node.wait_ready(40)
    assert locked.answer(id).error is None
    locked.platform.wait_balanced()


def test_without_a_topic_for_its_records_it_takes_nothing(locked: GuardedTestbed) -> None:
    locked.grant(locked.platform.topic, "consume")
    id = locked.platform.ask("hello")
    node = locked.start(ready=False)
    node.wait_log("no connection to Pulsar", 40)
    assert locked.asked(id) == 0
    locked.grant_all()
    node.wait_ready(40)
    assert locked.answer(id).error is None
    locked.platform.wait_balanced()


def test_records_that_are_refused_hold_their_tasks_and_then_the_intake(locked: GuardedTestbed) -> None:
    """The rights on RES_TOPIC are taken away under load: answered tasks are not acked, few are held, none is lost."""
    locked.grant_all()
    node = locked.start(MAX_PROCESS_NUM=8)
    assert locked.platform.ask_and_wait("hello").text
    locked.platform.wait_balanced()
    locked.grant(locked.platform.res_topic)
    locked.platform.admin("PUT", f"persistent/public/default/{locked.platform.res_topic}/unload")
    node.wait_not_ready(40)
    ids = locked.platform.ask_many(["hello"] * 40)
    locked.platform.wait_backlog(40)
    held = locked.platform.unacked()
    assert held <= 8 + 2
    assert locked.platform.backlog() == 40  # nothing was acked without its record
    locked.grant_all()
    node.wait_ready(60)
    locked.platform.wait_balanced(ids, 60)
    one_end_each(locked, ids)
    assert len({one["request_id"] for one in locked.platform.records()}) == len(ids) + 1


def test_a_dead_letter_topic_that_is_not_permitted_holds_the_letter_and_nothing_else(locked: GuardedTestbed) -> None:
    locked.grant(locked.platform.topic, "consume")
    locked.grant(locked.platform.res_topic, "produce")
    node = locked.start()
    locked.platform.publish(b"rubbish")
    node.wait_log("letter not stored", 30)
    ids = [locked.platform.ask("hello", stream=way) for way in (False, True)]
    for id in ids:
        assert locked.answer(id).error is None
    locked.platform.wait_backlog(1)
    locked.grant_all()
    assert locked.platform.wait_dead_letters(1, 30)
    locked.platform.wait_backlog(0)


LONG = 50  # seconds of a rate limit: longer than what a test waits for


def close_intake(testbed: Testbed, held: int = 0) -> Node:
    """Start a node, give it so many tasks, and let upstream answer with a long Retry-After."""
    node = testbed.start(MAX_PROCESS_NUM=8)
    if held:
        testbed.platform.ask_many([{"gate": "held"}] * held)
        testbed.upstream.wait_for_waiting("held", held)
    testbed.upstream.limit(60 / LONG, burst=0.01, headers="retry-after")
    testbed.platform.ask("too many")
    until(lambda: node.metrics()['workernode_intake_state{state="held"}'] == 1, 20, "closed intake")
    return node


@pytest.mark.parametrize("held", [0, 2], ids=["with nothing else here", "beside tasks in flight"])
def test_a_closed_intake_keeps_no_message_that_an_idle_node_could_serve(
    build: Callable[..., Testbed], held: int
) -> None:
    """What the client library was given beforehand goes to another node."""
    testbed = build()
    close_intake(testbed, held)
    with closing(FakeUpstream()) as other:
        other.models = [testbed.platform.model]
        testbed.start(API_URL=other.api_url)
        ids = testbed.platform.ask_many(["hello"] * 10)
        testbed.gateway.wait_all(ids, LONG / 2)
        assert not any(testbed.asked(id) for id in ids), "the node that waits for its rate limit served one"
    testbed.close_nodes()


def test_a_closed_intake_keeps_no_message_after_its_topic_was_moved(build: Callable[..., Testbed]) -> None:
    """The library asks for a message when it has connected anew, although the intake is closed."""
    testbed = build()
    close_intake(testbed, held=2)
    testbed.platform.admin("PUT", f"persistent/public/default/{testbed.platform.topic}/unload")
    with closing(FakeUpstream()) as other:
        other.models = [testbed.platform.model]
        testbed.start(API_URL=other.api_url)
        ids = testbed.platform.ask_many(["hello"] * 10)
        testbed.gateway.wait_all(ids, LONG / 2)
        assert not any(testbed.asked(id) for id in ids), "the node that waits for its rate limit served one"
        other.open_gate("held")  # the other node was given the two in flight, too
        testbed.upstream.open_gate("held")
    testbed.close_nodes()


def test_a_node_whose_model_loads_is_given_no_message(build: Callable[..., Testbed], tmp_path: Path) -> None:
    testbed = build()
    local = {"NODE_TYPE": "local", "API_URL": None, "API_KEY": None, "LOCAL_COMMAND": f"{sys.executable} {STANDIN}"}
    loading = testbed.start(ready=False, STANDIN_LOAD_S="1000", **local)
    until(lambda: testbed.platform.backlog() == 0, 30, "subscription")
    testbed.platform.ask("hello")
    testbed.platform.wait_backlog(1)
    assert testbed.platform.consumers() == []
    assert loading.running
    testbed.close_nodes()


# --- TLS, tenants, tokens in files ---


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


def test_topics_may_be_in_a_namespace_of_their_own(mortal: Broker, build: Callable[..., Testbed]) -> None:
    testbed = build(on=mortal)
    platform, model = testbed.platform, testbed.platform.model
    platform.admin("PUT", f"tenants/{model}", json={"adminRoles": [], "allowedClusters": ["standalone"]})
    platform.admin("PUT", f"namespaces/{model}/tasks")
    testbed.start(PULSAR_NAMESPACE=f"{model}/tasks")
    task = platform.task("hello")
    testbed.gateway.register_soon(task["request_id"])
    with closing(pulsar.Client(mortal.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        client.create_producer(f"persistent://{model}/tasks/model-{model}").send(json.dumps(task).encode())
        assert testbed.gateway.answer(task["request_id"]).wait(30).text
        reader = client.create_reader(f"persistent://{model}/tasks/{platform.res_topic}", pulsar.MessageId.earliest)
        assert json.loads(reader.read_next(20_000).data())["request_id"] == task["request_id"]
    testbed.close_nodes()


def test_a_token_that_ends_is_named_and_one_that_is_put_in_its_file_is_used(
    locked: GuardedTestbed, tmp_path: Path
) -> None:
    """Without a restart."""
    locked.grant_all()
    file = tmp_path / "token"
    file.write_text(token_for(locked.role, SECRET, expires=time.time() + 8))
    node = locked.start(PULSAR_TOKEN=None, PULSAR_TOKEN_FILE=file)
    assert locked.platform.ask_and_wait("hello").text
    node.wait_log("set PULSAR_TOKEN to a token that it takes and that has not expired", 60)
    file.write_text(token_for(locked.role, SECRET))
    node.wait_ready(40)
    assert locked.platform.ask_and_wait("hello").text
    locked.platform.wait_balanced()
    locked.close_nodes()


def test_a_partitioned_topic_is_served_and_little_more_is_held_than_the_cap(
    mortal: Broker, build: Callable[..., Testbed]
) -> None:
    """A node that is full keeps what it works on; a second node gets all else."""
    testbed = build(on=mortal)
    platform = testbed.platform
    model = f"parts-{secrets.token_hex(4)}"
    platform.admin("PUT", f"persistent/public/default/model-{model}/partitions", json=4)
    testbed.start(MODEL_NAME=model, MAX_PROCESS_NUM=2)
    with closing(pulsar.Client(mortal.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        producer = client.create_producer(f"model-{model}")

        def ask(directive: object) -> str:
            task = platform.task(directive)
            testbed.gateway.register_soon(task["request_id"])
            producer.send(json.dumps(task).encode())
            return str(task["request_id"])

        held = [ask({"gate": "held"}) for _ in range(2)]
        testbed.upstream.wait_for_waiting("held", 2)
        with closing(FakeUpstream()) as other:
            other.models = [model]
            testbed.start(MODEL_NAME=model, API_URL=other.api_url)
            ids = [ask("hello") for _ in range(40)]
            testbed.gateway.wait_all(ids, 40)
            assert not any(testbed.asked(id) for id in ids)
        testbed.upstream.open_gate("held")
        testbed.gateway.wait_all(held, 40)

    def left() -> int:
        stats = platform.admin("GET", f"persistent/public/default/model-{model}/partitioned-stats").json()
        return int(stats["subscriptions"][f"model-{model}-subscription"]["msgBacklog"])

    until(lambda: left() == 0, 30, "empty backlog")
    one_end_each(testbed, [*held, *ids])
    testbed.close_nodes()


class Issuer(BaseHTTPRequestHandler):
    """An OAuth2 server: gives a token of the role to the one client that it knows."""

    token = ""

    def do_GET(self) -> None:
        """The address of the token endpoint, as OpenID Connect Discovery has it."""
        self._answer({"token_endpoint": f"http://{self.headers['Host']}/token"})

    def do_POST(self) -> None:
        """The client credentials grant of RFC 6749."""
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        known = "client_credentials" in sent and "the-client" in sent and "the-secret" in sent
        self._answer({"access_token": self.token if known else "", "token_type": "bearer", "expires_in": 3600})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_oauth2_tokens_are_fetched_anew_and_a_rotated_key_file_is_read_when_the_connection_was_lost(
    locked: GuardedTestbed, tmp_path: Path
) -> None:
    locked.grant_all()
    given: list[str] = []  # the secret of each token that was given

    class Rotating(Issuer):
        """Gives tokens of four seconds for the secret that is valid now."""

        secret = "old-secret"

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.secret not in sent:
                return self.send_error(401)
            given.append(self.secret)
            token = token_for(locked.role, SECRET, expires=time.time() + 4)
            return self._answer({"access_token": token, "token_type": "bearer", "expires_in": 3})

    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps({"client_id": "the-client", "client_secret": "old-secret"}))
    with ThreadingHTTPServer(("127.0.0.1", 0), Rotating) as issuer:
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{issuer.server_port}"
        oauth2 = {"issuer_url": address, "private_key": f"file://{credentials}", "audience": "urn:pulsar"}
        node = locked.start(PULSAR_TOKEN=None, PULSAR_OAUTH2=json.dumps(oauth2))
        assert locked.platform.ask_and_wait("hello").text
        before = len(given)
        until(lambda: len(given) > before + 1, 60, "new tokens")
        node.wait_ready(40)
        assert locked.platform.ask_and_wait("hello").text
        credentials.write_text(json.dumps({"client_id": "the-client", "client_secret": "new-secret"}))
        Rotating.secret = "new-secret"
        until(lambda: "new-secret" in given, 120, "a token for the rotated secret")
        node.wait_ready(60)
        assert locked.platform.ask_and_wait("hello").text
        locked.platform.wait_balanced()
        locked.close_nodes()
        issuer.shutdown()


def test_a_node_that_authenticates_by_oauth2_serves(locked: GuardedTestbed, tmp_path: Path) -> None:
    locked.grant_all()
    handler = type("OneIssuer", (Issuer,), {"token": token_for(locked.role, SECRET)})
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps({"client_id": "the-client", "client_secret": "the-secret"}))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as issuer:
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        oauth2 = {
            "issuer_url": f"http://127.0.0.1:{issuer.server_port}",
            "private_key": f"file://{credentials}",
            "audience": "urn:pulsar",
        }
        node = locked.start(PULSAR_TOKEN=None, PULSAR_OAUTH2=json.dumps(oauth2))
        assert locked.platform.ask_and_wait("hello").text
        locked.platform.wait_balanced()
        check = Node({**node.env, "STATUS_ADDR": "off"}, tmp_path, ["--check", "--json"])
        check.wait_exit(60)
        findings = {each["name"]: each["mark"] for each in json.loads("\n".join(check.stdout_lines))["findings"]}
        assert {findings[name] for name in ("broker", "broker: tasks", "broker: records")} == {"ok"}
        check.close()
        locked.close_nodes()
        issuer.shutdown()
