"""The way back: clients that leave, connections that break, gateways that are away."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.wait import until
from tests.unit.workernode.attempt.bench import LONG, WORDS, Bench, both, record_of
from workernode.gateway import timing
from workernode.net import websocket
from workernode.protocol import Decision

# --- the client ---


def test_a_plain_request_ends_when_its_client_disconnects(bench: Bench) -> None:
    outcome, answer = bench.run(known=False)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "client_gone")
    assert len(answer.posts) > 1
    assert record_of(outcome)["usage_source"] == "upstream"


@pytest.mark.parametrize("behaviour", [{"cut_after": 1}, {"close_after": 1}], ids=["cut", "closed"])
def test_a_stream_whose_connection_breaks_stops_upstream_and_is_ended_over_a_new_connection(
    bench: Bench, behaviour: dict[str, Any]
) -> None:
    """Upstream costs money; the client may still wait."""
    bench.gateway.behave("x", **behaviour)
    outcome, answer = bench.run({"gate_chunks": "never"}, stream=True, id="x")
    assert (outcome.decision, outcome.status) == (Decision.ACK, "connection_lost")
    bench.up.wait_for_cancelled(timeout=1)
    assert (answer.wait().ends, answer.faults) == (1, [])
    assert answer.error is not None
    assert answer.error["code"] == "stream_interrupted"  # type: ignore[index]
    assert len(bench.up.requests) == 1
    made = record_of(outcome)
    assert made["outcome"]["end_reason"]
    assert made["timestamps"]["answered"]


def test_an_error_whose_connection_breaks_reaches_the_client_over_a_new_one(bench: Bench) -> None:
    """Upstream broke off, and so did the gateway's connection."""
    bench.gateway.behave("x", cut_after=1)
    outcome, answer = bench.run({"chunks": 2, "cut_after": 1, "chunk_ms": 200}, stream=True, id="x")
    assert outcome.decision is Decision.ACK
    assert (answer.wait().ends, answer.faults) == (1, [])
    assert answer.error is not None


def test_a_gateway_that_stays_away_after_a_broken_stream_ends_the_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "RECONNECT_TIME", 0.3)
    bench.gateway.behave("x", close_after=1)

    def refuse_from_now_on() -> None:
        bench.gateway.wait_until(lambda: bench.gateway.sockets, LONG, "the first connection")
        bench.gateway.behave(upgrade_status=503)

    thread = threading.Thread(target=refuse_from_now_on)
    thread.start()
    outcome, answer = bench.run({"latency_ms": 500, "gate_chunks": "never"}, stream=True, id="x")
    thread.join()
    assert (outcome.decision, outcome.status, answer.ends) == (Decision.ACK, "connection_lost", 0)
    assert record_of(outcome)["timestamps"]["answered"] is None


def test_a_client_who_leaves_before_the_first_chunk_is_noticed_by_its_ping(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PING_EVERY", 0.05)
    monkeypatch.setattr(timing, "GONE_AFTER", 0.2)
    bench.gateway.behave("x", no_pong=True)
    outcome, _ = bench.run({"gate_chunks": "never"}, stream=True, id="x")
    assert outcome.status == "client_gone"
    bench.up.wait_for_cancelled()


def test_a_client_whose_reader_is_blocked_is_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "SEND_TIME", 0.2)
    monkeypatch.setattr(websocket, "CLOSE_TIME", 0.1)
    bench.gateway.behave("x", stop_reading_after=1)
    outcome, _ = bench.run({"chunks": 40, "size": 1_000_000}, stream=True, id="x")
    assert outcome.status == "client_gone"
    bench.up.wait_for_inflight(0)


# --- the gateway ---


@both
def test_an_answer_is_kept_until_the_gateway_is_back_and_upstream_is_asked_once(bench: Bench, stream: bool) -> None:
    bench.gateway.register("x")
    bench.gateway.down()

    def come_back() -> None:
        until(lambda: bench.up.requests and bench.up.requests[0].answered_at, LONG, "upstream's answer")
        bench.gateway.up()

    thread = threading.Thread(target=come_back)
    thread.start()
    outcome, answer = bench.run(stream=stream, id="x", known=False)
    thread.join()
    assert (outcome.status, outcome.attempts, len(bench.up.requests)) == ("answered", 1, 1)
    assert answer.wait().text == (WORDS if stream else "wörd " * 5)
    assert answer.faults == []


@both
def test_a_gateway_that_stays_away_ends_the_task_with_its_time(bench: Bench, stream: bool) -> None:
    bench.gateway.down()
    outcome, _ = bench.run(stream=stream, known=False, seconds=0.5)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "gateway_unreachable")
    assert len(bench.up.requests) == 1
    assert record_of(outcome)["usage_source"] == "upstream"


def test_a_post_that_hangs_is_not_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "POST_TIME", 0.2)
    bench.gateway.behave("x", hang=True)
    outcome, answer = bench.run(id="x")
    assert (outcome.decision, outcome.status, len(answer.posts)) == (Decision.ACK, "unconfirmed", 1)
    assert len(bench.up.requests) == 1


def test_a_gateway_that_refuses_the_answer_ends_the_task(bench: Bench) -> None:
    bench.gateway.behave("x", status=400)
    outcome, _ = bench.run(id="x")
    assert (outcome.decision, outcome.status) == (Decision.ACK, "gateway_refused")


@both
def test_an_id_that_is_registered_after_publishing_loses_nothing(
    bench: Bench, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.1)
    monkeypatch.setattr(timing, "REGISTERING_TIME", 1.2)
    bench.gateway.register_after(0.05 if stream else 0.4, "x")
    outcome, answer = bench.run(stream=stream, id="x", known=False)
    assert outcome.status == "answered"
    assert answer.wait().dropped == []
    assert answer.text
