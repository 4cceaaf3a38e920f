"""An Outcome and its billing record agree, because both are made from the same facts."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from typing import Any

import pytest

from workernode.call_stats import CallStats
from workernode.errors import UpstreamFault, openai_error
from workernode.facts import End, Facts
from workernode.outcome import OutcomeBuilder
from workernode.prices import ModelPrice, Prices
from workernode.protocol import NODE_KINDS, Decision, FaultKind, Job, Outcome
from workernode.record import Node
from workernode.settings import load
from workernode.task import parse
from workernode.usage import token_count

KEY = "sk-canary-0123456789"
SETTINGS = load(
    {
        "NODE_TYPE": "remote",
        "MODEL_NAME": "m",
        "API_URL": "http://127.0.0.1:9/v1",
        "API_KEY": KEY,
        "PULSAR_URL": "pulsar://127.0.0.1",
    }
)
NODE = Node("node-1", "host-a", "remote", "1.2.3", worker=1)
BUILDER = OutcomeBuilder(SETTINGS, NODE)
PAYLOAD = json.dumps(
    {"request_id": "r", "stream": True, "endpoint": "http://gw/res", "data": {"model": "asked-for", "messages": []}}
).encode()


def facts(asked: CallStats | None = None, *, read: bool = True) -> Facts:
    """A delivery that was published at 998 s and received at 1000 s, which is 50 s on the monotonic clock."""
    job = Job(7, 0, PAYLOAD, published=998.0, received=1000.0, received_at=50.0, deadline=350.0, redeliveries=2)
    return Facts(job, "r", parse(PAYLOAD) if read else None, asked or CallStats())


def build(end: End, known: Facts) -> tuple[Outcome, dict[str, Any]]:
    """The outcome at 60 s, and its record."""
    outcome = BUILDER.build(end, known, 60.0)
    return outcome, json.loads(outcome.record)


def test_an_answered_task_has_its_times_and_its_usage_in_both() -> None:
    asked = CallStats(attempts=2, first_sent_at=51.0, sent_at=52.0, first_at=53.0, done_at=55.0, http_status=200)
    asked.usage, asked.finish_reason, asked.model = {"prompt_tokens": 3, "completion_tokens": 4}, "stop", "answered-by"
    known = facts(asked)
    known.answering_since, known.answered_at = 55.0, 56.0
    outcome, made = build(End("answered", Decision.ACK, upstream_answered=True), known)
    assert (outcome.number, outcome.request_id, outcome.stream, outcome.attempts) == (7, "r", True, 2)
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.upstream_answered) == (3, 4, True)
    took = outcome.durations
    assert (took.queue, took.waiting, took.first_token, took.upstream, took.answer, took.total) == (2, 1, 1, 3, 1, 10)
    assert made["durations_ms"] == {
        "queued": 2000, "waiting": 1000, "upstream_first_token": 1000, "upstream": 3000, "answer": 1000, "total": 10000,
    }  # fmt: skip
    assert (made["model"], made["upstream_model"], made["usage_source"]) == ("asked-for", "answered-by", "upstream")
    assert made["timestamps"]["answered"] == "1970-01-01T00:16:46.000Z"
    assert made["outcome"] == {
        "status": "answered", "decision": "ack", "end_reason": "stop", "http_status": 200, "error": None,
    }  # fmt: skip


def test_a_task_whose_worker_died_has_a_record_too() -> None:
    error = openai_error("its worker died", "server_error", "worker_died")
    outcome, made = build(End("worker_died", Decision.NAK, error, reason="its worker died"), facts(read=False))
    assert (outcome.request_id, outcome.status, outcome.reason) == ("r", "worker_died", "its worker died")
    assert (made["model"], made["upstream_model"], made["request"]["bytes"]) == ("m", None, len(PAYLOAD))
    assert made["outcome"]["error"] == {"type": "server_error", "code": "worker_died", "message": "its worker died"}
    assert (made["outcome"]["end_reason"], made["redeliveries"], made["attempts"]) == ("worker_died", 2, 0)


@pytest.mark.parametrize("decision", [Decision.ACK, Decision.NAK])
@pytest.mark.parametrize("kind", FaultKind)
def test_only_a_nakd_task_whose_fault_may_be_the_nodes_carries_the_error_for_its_client(
    kind: FaultKind, decision: Decision
) -> None:
    error = openai_error("no", "x")
    outcome, _ = build(End("s", decision, error, UpstreamFault(kind, "no", http_status=401)), facts())
    assert outcome.client_error == (error if decision is Decision.NAK and kind in NODE_KINDS else None)


def test_upstreams_message_reaches_supervisor_and_record_without_secrets() -> None:
    fault = UpstreamFault(FaultKind.KEY, f"Incorrect key {KEY}, sk-other-123456", http_status=401, code=f"bad-{KEY}")
    outcome, made = build(End("key_refused", Decision.NAK, None, fault), facts())
    assert outcome.fault is not None
    assert (outcome.fault.code, outcome.fault.message) == ("bad-***", "Incorrect key ***, ***")
    assert made["outcome"]["end_reason"] == "bad-***"


def test_chunks_with_text_are_counted_where_upstream_gave_no_usage() -> None:
    outcome, made = build(End("broken", Decision.ACK), facts(CallStats(attempts=1, text_chunks=9)))
    assert outcome.completion_tokens == 9
    assert (made["usage"]["completion_tokens"], made["usage_source"]) == (9, "counted")


@pytest.mark.parametrize("figure", [None, -1, 10**9, "5", 1.5])
def test_a_figure_that_is_no_count_of_tokens_is_zero(figure: object) -> None:
    assert token_count({"prompt_tokens": figure}, "prompt_tokens") == 0
    assert token_count(None, "prompt_tokens") == 0


def test_the_cost_is_in_both() -> None:
    prices = Prices("v7", "USD", {"asked-for": ModelPrice(*(Decimal(1),) * 4)})
    asked = CallStats(attempts=1, usage={"prompt_tokens": 2, "completion_tokens": 4})
    builder = OutcomeBuilder(dataclasses.replace(SETTINGS, prices=prices), NODE)
    outcome = builder.build(End("answered", Decision.ACK), facts(asked), 60.0)
    assert json.loads(outcome.record)["cost"] == {"amount": "0.000006", "currency": "USD", "prices": "v7"}
    assert outcome.cost == 0.000006
