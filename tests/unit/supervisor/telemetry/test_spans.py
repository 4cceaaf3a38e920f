"""The spans of a delivery are its record's figures, whatever became of it."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from supervisor.telemetry.spans import Ended, Kind, Names, Span, read_record, spans_of
from workernode.call_stats import CallStats
from workernode.facts import End, Facts
from workernode.outcome import OutcomeBuilder
from workernode.protocol import Decision, FaultInfo, FaultKind, Job, Outcome
from workernode.record import Node
from workernode.settings import load
from workernode.task import Task, parse
from workernode.trace_context import TraceContext

SETTINGS = load(
    {"NODE_TYPE": "remote", "MODEL_NAME": "m", "API_URL": "http://h", "API_KEY": "k", "PULSAR_URL": "pulsar://h"}
)
NAMES = Names("model-m", "", {"server.address": "h", "server.port": 80})
TASK: Task = parse(
    b'{"request_id": "id-1", "stream": true, "endpoint": "ws://h/ws",'
    b' "data": {"model": "asked", "messages": [{"role": "user", "content": "private"}], "temperature": 0.5}}'
)
TRACE = TraceContext("a" * 32, "b" * 16, "c" * 16, 1)
AT = 1_700_000_000.0  # when the task was taken, in seconds since the epoch; 100 on the monotonic clock
MS = 1_000_000  # nanoseconds


def outcome(end: End, asked: CallStats, **facts: Any) -> Outcome:
    job = Job(1, 0, b"{}", AT - 0.25, AT, 100.0, 400.0, 0)
    made = Facts(job, "id-1", TASK, asked, trace=TRACE, **facts)
    return OutcomeBuilder(SETTINGS, Node("n", "host", "remote", "1")).build(end, made, 101.5)


def spans(of: Outcome) -> dict[str, Span]:
    numbers = count(1)
    ended = Ended.of(of, TRACE)
    made = spans_of(ended, read_record(ended.record), NAMES, lambda: f"{next(numbers):016x}")
    return {each.name: each for each in made}


def asked(**more: Any) -> CallStats:
    return CallStats(**{
        "attempts": 1, "first_sent_at": 100.01, "sent_at": 100.01, "first_at": 100.2, "done_at": 101.0,
        "http_status": 200, "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "finish_reason": "stop",
        "model": "answered", **more,
    })  # fmt: skip


ANSWERED = End("answered", Decision.ACK, upstream_answered=True)
FAULT = FaultInfo(FaultKind.PASSING, 503, "overloaded", "away")


def ms(span: Span) -> tuple[float, float]:
    """Its edges in milliseconds since the task was taken."""
    return (span.start - round(AT * 1e9)) / MS, (span.end - round(AT * 1e9)) / MS


def test_an_answered_stream_has_five_spans_below_the_clients() -> None:
    made = spans(outcome(ANSWERED, asked(), answering_since=101.0, answered_at=101.2))
    assert {name: ms(span) for name, span in made.items()} == {
        "process model-m": (-250, 1500),
        "queue wait": (-250, 0),
        "slot wait": (0, 10),
        "chat asked": (10, 1000),
        "answer": (1000, 1200),
    }
    root, chat = made["process model-m"], made["chat asked"]
    assert (root.parent, root.kind, root.error) == ("b" * 16, Kind.CONSUMER, "")
    assert {span.parent for span in made.values() if span is not root} == {root.id}
    assert (chat.id, chat.kind, chat.error, chat.first_chunk) == ("c" * 16, Kind.CLIENT, "", chat.start + 190 * MS)
    assert chat.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "asked",
        "server.address": "h", "server.port": 80, "gen_ai.request.temperature": 0.5, "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 0.19, "http.response.status_code": 200,
        "gen_ai.response.model": "answered", "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4,
    }  # fmt: skip
    assert "private" not in repr(made)


def test_calls_that_failed_before_the_last_one_are_a_span_of_their_own() -> None:
    made = spans(outcome(ANSWERED, asked(attempts=3, sent_at=100.5, first_at=100.6)))
    assert (ms(made["slot wait"]), ms(made["retries"]), ms(made["chat asked"])) == ((0, 10), (10, 500), (500, 1000))


def test_a_fault_of_upstream_is_an_error_of_the_call_and_of_the_task() -> None:
    of = outcome(End("upstream_trouble", Decision.NAK, fault=FAULT), asked(done_at=None, usage=None, http_status=503))
    made = spans(of)
    assert [made[name].error for name in ("process model-m", "chat asked")] == ["overloaded"] * 2
    assert ms(made["chat asked"]) == (10, 1500)  # to the end of the task
    assert not any(name.startswith(("gen_ai.response.", "gen_ai.usage.")) and "first" not in name
                   for name in made["chat asked"].attributes)  # fmt: skip


def test_a_task_that_never_asked_upstream_has_no_call_and_says_why_it_ended() -> None:
    made = spans(outcome(End("expired", Decision.ACK), CallStats()))
    assert list(made) == ["process model-m", "queue wait"]
    assert made["process model-m"].error == "expired"


@pytest.mark.parametrize("status", ["answered", "client_gone"])
def test_a_client_that_left_is_no_error(status: str) -> None:
    assert spans(outcome(End(status, Decision.ACK), asked()))["process model-m"].error == ""
