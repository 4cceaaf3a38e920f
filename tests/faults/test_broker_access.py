"""What the broker wants of a node: tokens and rights. No restart of the node, and nothing is lost."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pulsar
import pytest

from devstack.broker import Broker
from tests.faults.testbed import REPORTS_SOON, Testbed, one_end_each, patched
from tests.support.node import Node
from tests.support.platform import Broker as AnyBroker
from tests.support.platform import Platform
from tests.support.tokens import ADMIN, token_for
from tests.support.wait import until


class GuardedTestbed(Testbed):
    """A testbed on a broker that asks for tokens; its node's role may do what it is granted."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.client = pulsar.Client(
            broker.url,
            authentication=pulsar.AuthenticationToken(ADMIN),
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
        )
        self.role = f"node-{secrets.token_hex(4)}"
        super().__init__(broker, folder, {"PULSAR_TOKEN": token_for(self.role)})
        self.platform.admin("PUT", f"persistent/public/default/{self.platform.dead_letter_topic}")

    def _platform(self, broker: AnyBroker) -> Platform:
        side = Platform(broker, self.gateway, client=self.client)
        side._http.headers["Authorization"] = f"Bearer {ADMIN}"
        return side

    def grant(self, topic: str, *rights: str, role: str = "") -> None:
        """Give the node's role (or another one) these rights on the topic; none takes them away."""
        path = f"persistent/public/default/{topic}/permissions/{role or self.role}"
        if rights:
            self.platform.admin("POST", path, json=list(rights))
        else:
            self.platform.admin("DELETE", path)

    def grant_all(self, role: str = "") -> None:
        """All that a node needs; it works without claims."""
        self.grant(self.platform.topic, "consume", role=role)
        self.grant(self.platform.res_topic, "produce", role=role)
        self.grant(self.platform.dead_letter_topic, "produce", "consume", role=role)

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
    node = locked.start(False, patched(tmp_path, REPORTS_SOON), PULSAR_TOKEN=wrong)
    report = node.wait_log("MessageQueueConnectionError", 40)
    assert "set PULSAR_TOKEN" in report
    assert node.running
    assert wrong not in node.output


def test_a_topic_that_is_not_permitted_is_served_once_it_is(locked: GuardedTestbed, tmp_path: Path) -> None:
    locked.grant(locked.platform.res_topic, "produce")
    id = locked.platform.ask("hello")
    node = locked.start(False, patched(tmp_path, REPORTS_SOON))
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
    line = node.wait_log("no connection to Pulsar", 40)
    assert f"no right to produce to {locked.platform.res_topic} (RES_TOPIC_NAME)" in line
    assert locked.platform.topic not in line
    assert locked.asked(id) == 0
    locked.grant_all()
    node.wait_ready(40)
    assert locked.answer(id).error is None
    locked.platform.wait_balanced()


def test_two_nodes_of_which_one_may_not_use_claims_serve_as_without_claims(locked: GuardedTestbed) -> None:
    platform, upstream = locked.platform, locked.upstream
    platform.admin("PUT", f"persistent/public/default/{platform.topic}-claims")
    claiming = f"node-{secrets.token_hex(4)}"
    locked.grant_all()
    locked.grant_all(claiming)
    locked.grant(f"{platform.topic}-claims", "produce", "consume", role=claiming)
    token = token_for(claiming)
    without, first = locked.start(), locked.start(PULSAR_TOKEN=token)
    ids = [platform.ask("hello", stream=number % 2 == 0) for number in range(40)]
    platform.wait_balanced(ids)
    for node in (first, without):  # the node that is left serves what the other had
        ids += [platform.ask({"gate": node.mark}, stream=number % 2 == 0) for number in range(10)]
        upstream.wait_for_waiting(node.mark, 10)
        node.kill()
        node.wait_exit()
        upstream.open_gate(node.mark)
        platform.wait_balanced(ids)
        if node is first:
            second = locked.start(PULSAR_TOKEN=token)
    one_end_each(locked, ids)
    assert [node.output.count('"claims_off"') for node in (without, first, second)] == [1, 0, 0]
    locked.close_nodes()


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


def test_a_token_that_ends_is_named_and_one_that_is_put_in_its_file_is_used(
    locked: GuardedTestbed, tmp_path: Path
) -> None:
    """Without a restart."""
    locked.grant_all()
    file = tmp_path / "token"
    file.write_text(token_for(locked.role, expires=time.time() + 8))
    node = locked.start(PULSAR_TOKEN=None, PULSAR_TOKEN_FILE=file)
    assert locked.platform.ask_and_wait("hello").text
    node.wait_log("set PULSAR_TOKEN to a token that it takes and that has not expired", 60)
    file.write_text(token_for(locked.role))
    node.wait_ready(40)
    assert locked.platform.ask_and_wait("hello").text
    locked.platform.wait_balanced()
    locked.close_nodes()


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
            token = token_for(locked.role, expires=time.time() + 4)
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
    handler = type("OneIssuer", (Issuer,), {"token": token_for(locked.role)})
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
