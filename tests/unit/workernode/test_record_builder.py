"""The members of a record: what one answer cost, by the prices of the model that answered or was asked for."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal

import pytest

from workernode.call_stats import CallStats
from workernode.facts import End, Facts
from workernode.prices import ModelPrice, Prices
from workernode.protocol import Decision, Job
from workernode.record import Node
from workernode.record_builder import RecordBuilder
from workernode.settings import Settings, load
from workernode.task import parse

SETTINGS = load(
    {
        "NODE_TYPE": "remote",
        "MODEL_NAME": "m",
        "API_URL": "http://127.0.0.1:9/v1",
        "API_KEY": "sk-canary-0123456789",
        "PULSAR_URL": "pulsar://127.0.0.1",
    }
)
NODE = Node("node-1", "host-a", "remote", "1.2.3", worker=1)
ANSWERED = End("answered", Decision.ACK)
PAYLOAD = json.dumps(
    {"request_id": "r", "stream": True, "endpoint": "http://gw/res", "data": {"model": "asked-for", "messages": []}}
).encode()


def facts(asked: CallStats) -> Facts:
    """A delivery of a task for the model "asked-for"."""
    job = Job(7, 0, PAYLOAD, published=998.0, received=1000.0, received_at=50.0, deadline=350.0, redeliveries=2)
    return Facts(job, "r", parse(PAYLOAD), asked)


@pytest.mark.parametrize(
    ("answered_by", "amount"),
    [("dear", "0.000012"), ("asked-for", "0.000006"), ("unknown", "0.000006"), (None, "0.000006")],
)
def test_the_cost_is_that_of_the_model_that_answered_or_was_asked_for(answered_by: str | None, amount: str) -> None:
    price, dear = (ModelPrice(*(Decimal(each),) * 4) for each in (1, 2))
    settings = dataclasses.replace(SETTINGS, prices=Prices("v7", "USD", {"asked-for": price, "dear": dear}))
    asked = CallStats(attempts=1, usage={"prompt_tokens": 2, "completion_tokens": 4}, model=answered_by)
    cost = RecordBuilder(settings, NODE).build(ANSWERED, facts(asked), 60.0).cost
    assert cost is not None
    assert (cost.amount, cost.currency, cost.version) == (Decimal(amount), "USD", "v7")


def test_a_model_without_a_price_is_logged_once_and_has_no_cost(caplog: pytest.LogCaptureFixture) -> None:
    price = ModelPrice(*(Decimal(1),) * 4)
    settings = dataclasses.replace(SETTINGS, prices=Prices("v7", "USD", {"other": price}))
    builder = RecordBuilder(settings, NODE)
    for _ in range(3):
        asked = CallStats(attempts=1, usage={"prompt_tokens": 2}, model="unknown")
        assert builder.build(ANSWERED, facts(asked), 60.0).cost is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("settings", [SETTINGS, None], ids=["no-prices", "no-usage"])
def test_without_prices_or_usage_there_is_no_cost(settings: Settings | None) -> None:
    priced = dataclasses.replace(SETTINGS, prices=Prices("v7", "USD", {"asked-for": ModelPrice(*(Decimal(1),) * 4)}))
    asked = CallStats(usage={"prompt_tokens": 2}) if settings else CallStats()
    assert RecordBuilder(settings or priced, NODE).build(ANSWERED, facts(asked), 60.0).cost is None
