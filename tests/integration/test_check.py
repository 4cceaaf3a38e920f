"""`--check` against real brokers: one that is open, and one that asks for tokens."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pulsar
import pytest
import requests

from devstack.broker import Broker
from supervisor.check import broker as check_broker
from supervisor.check.findings import Context, Finding, Mark, run_all
from supervisor.records import command as records
from tests.support.check import REMOTE
from tests.support.tokens import ADMIN, token_for
from workernode import settings

TIMEOUT = 30


@pytest.fixture
def model() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def findings(broker: Broker, model: str, token: str = "") -> list[Finding]:
    output = {"PULSAR_URL": broker.url, "PULSAR_TOKEN": token, "MODEL_NAME": model, "RES_TOPIC_NAME": f"res-{model}"}
    return run_all(check_broker.checks(), Context(settings.load(REMOTE | output), time.monotonic() + TIMEOUT))


def admin(broker: Broker, path: str) -> Any:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    return requests.get(f"{broker.admin_url}/admin/v2/persistent/{path}", headers=headers, timeout=TIMEOUT).json()


def test_an_open_broker_passes(broker: Broker, model: str) -> None:
    entry, takes, stores, claims = findings(broker, model)
    assert [one.mark for one in (entry, takes, stores, claims)] == [Mark.OK] * 4
    assert entry.text.endswith("asks for no token")
    assert takes.text == f"may take tasks from subscription model-{model}-subscription"
    assert stores.text == f"may store records in topic res-{model}"
    assert claims.text == f"may claim tasks in topic model-{model}-claims"


def test_waiting_tasks_are_not_disturbed(broker: Broker, model: str) -> None:
    topic, subscription = f"model-{model}", f"model-{model}-subscription"
    with closing(pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        client.create_producer(topic).send(b"waits")
        assert findings(broker, model)[1].mark is Mark.OK
        seen = admin(broker, f"public/default/{topic}/stats?getPreciseBacklog=true")["subscriptions"][subscription]
        assert (seen["msgBacklog"], seen["msgOutCounter"], seen["consumers"]) == (1, 0, [])
        # The subscription is the node's: it begins with what was published before, and goes on as a shared one.
        shared = pulsar.ConsumerType.Shared
        message = client.subscribe(topic, subscription, consumer_type=shared).receive(TIMEOUT * 1000)
        assert (message.data(), message.redelivery_count()) == (b"waits", 0)


def test_a_partitioned_topic_passes(broker: Broker, model: str) -> None:
    url = f"{broker.admin_url}/admin/v2/persistent/public/default/model-{model}/partitions"
    requests.put(url, json=2, timeout=TIMEOUT).raise_for_status()
    assert [one.mark for one in findings(broker, model)] == [Mark.OK] * 4


def test_a_subscription_of_another_type_is_a_fault(broker: Broker, model: str) -> None:
    with closing(pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        client.subscribe(f"model-{model}", f"model-{model}-subscription")  # exclusive
        takes = findings(broker, model)[1]
    assert takes.mark is Mark.FAULT
    assert takes.text.endswith("is in use, and not as a Shared one")


def test_a_good_token_passes(guarded: Broker, model: str) -> None:
    found = findings(guarded, model, ADMIN)
    assert [one.mark for one in found] == [Mark.OK] * 4
    assert found[0].text.endswith("takes the token")


@pytest.mark.parametrize(
    ("token", "advice"),
    [("", "it wants a token: set PULSAR_TOKEN"), (token_for("admin", os.urandom(32)), "set PULSAR_TOKEN to a token")],
    ids=["none", "signed by somebody else"],
)
def test_a_refused_token_is_a_fault_with_advice(guarded: Broker, model: str, token: str, advice: str) -> None:
    entry, takes, stores, claims = findings(guarded, model, token)
    assert (entry.mark, takes.mark, stores.mark, claims.mark) == (Mark.FAULT, *[Mark.SKIPPED] * 3)
    assert "refuses us" in entry.text
    assert entry.advice.startswith(advice)
    assert not token or token not in entry.text


def test_a_role_without_rights_is_a_fault_that_names_the_right(guarded: Broker, model: str) -> None:
    entry, takes, stores, claims = findings(guarded, model, token_for("nobody"))
    assert entry.mark is Mark.OK
    assert takes.text == f"the token's role may not consume on subscription model-{model}-subscription"
    assert stores.text == f"the token's role may not produce on topic res-{model}"
    assert claims.text == f"the token's role may not produce and consume on topic model-{model}-claims"
    assert (takes.mark, stores.mark, claims.mark) == (Mark.FAULT, Mark.FAULT, Mark.WARNING)


@pytest.mark.parametrize(
    ("role", "expected"),
    [("admin", "has no topic persistent://public/default"), ("nobody", "may not read it"), ("", "set PULSAR_TOKEN")],
)
def test_workernode_records_reports_a_refused_token_like_check(
    guarded: Broker, model: str, role: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    token = token_for(role) if role else ""
    assert records.main(["sum", "--url", guarded.url, "--topic", f"res-{model}", "--token", token]) == 1
    output = capsys.readouterr()
    assert expected in output.err
    assert output.err.count("\n") == 1
    assert not token or token not in output.err
