"""One delivery, from its bytes to its outcome: the rows of spec 4."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.fixtures import API_KEY
from tests.support.gateway import Answer, FakeGateway
from tests.support.paths import ROOT
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode import attempt, record
from workernode.attempt import Services
from workernode.gateway import Gateways, timing
from workernode.gateway import post as post_module
from workernode.net import websocket
from workernode.outcome import OutcomeBuilder
from workernode.protocol import NODE_KINDS, AnswerState, Decision, FaultKind, Job, Outcome, Rejection, Target
from workernode.settings import Settings, load
from workernode.upstream import Upstream, retry_policy

LONG = 20.0  # seconds: what must end sooner by something else
VALIDATOR = Draft202012Validator(json.loads((ROOT / "docs" / "record.schema.json").read_text(encoding="utf-8")))
SECRET = "Bearer sk-clients-own-secret-1"
WORDS = "".join(f"wörd {number} " for number in range(5))


class Progress:
    """What the supervisor would see; see attempt.Progress."""

    def __init__(self) -> None:
        self.shown: list[AnswerState] = []
        self.tokens = 0

    def show_answer_state(self, state: AnswerState) -> None:
        self.shown.append(state)

    def count_tokens(self, tokens: int) -> None:
        self.tokens += tokens


class Bench:
    """A worker's services with a fake upstream and a fake gateway on its two sides."""

    def __init__(self, upstream: FakeUpstream, gateway: FakeGateway, **variables: str) -> None:
        self.up, self.gateway = upstream, gateway
        self.settings: Settings = load(
            {
                "NODE_TYPE": "remote",
                "MODEL_NAME": "m",
                "API_URL": upstream.api_url,
                "API_KEY": API_KEY,
                "PULSAR_URL": "pulsar://127.0.0.1",
                "NAK_DELAY": "0.1",
                **variables,
            }
        )
        self.upstream = Upstream(5.0, LONG, lambda seen: None)
        self.upstream.set_target(Target(self.settings.api_url, self.settings.api_key))
        node = record.Node("node-1", "host-a", "remote", "1.2.3", worker=1)
        self.services = Services(self.settings, self.upstream, Gateways(5.0), OutcomeBuilder(self.settings, node))
        self.progress = Progress()
        self.number = 0

    def job(
        self, payload: bytes, seconds: float = LONG, redeliveries: int = 0, rejection: Rejection | None = None
    ) -> Job:
        """A delivery of a message that was published two seconds ago and has so many seconds left."""
        self.number += 1
        now, wall = time.monotonic(), time.time()
        return Job(self.number, 0, payload, wall - 2, wall, now, now + seconds, redeliveries, rejection)

    def payload(self, id: str, directive: dict[str, Any], stream: bool, changes: dict[str, Any], **chat: Any) -> bytes:
        content = "lab:" + json.dumps(directive)
        task = {
            "request_id": id,
            "stream": stream,
            "endpoint": self.gateway.ws_url if stream else self.gateway.post_url,
            "data": {"model": "m", "messages": [{"role": "user", "content": content}], **chat},
            "metadata": {"headers": {"User-Agent": ["curl/8"], "Authorization": [SECRET]}},
            **changes,
        }
        return json.dumps({name: value for name, value in task.items() if value is not ...}).encode()

    def run(
        self,
        directive: dict[str, Any] | None = None,
        stream: bool = False,
        *,
        id: str = "",
        known: bool = True,
        seconds: float = LONG,
        redeliveries: int = 0,
        rejection: Rejection | None = None,
        changes: dict[str, Any] | None = None,
        **chat: Any,
    ) -> tuple[Outcome, Answer]:
        """Run one task; gives its outcome and what the gateway has of it."""
        id = id or uuid.uuid4().hex
        if known:
            self.gateway.register(id)
        payload = self.payload(id, directive or {}, stream, changes or {}, **chat)
        self.progress = Progress()
        outcome = attempt.run(self.job(payload, seconds, redeliveries, rejection), self.services, self.progress)
        return outcome, self.gateway.answer(id)

    def close(self) -> None:
        self.upstream.set_target(Target("http://127.0.0.1:9/", None))
        self.services.gateways.connections.close()


@pytest.fixture
def bench(upstream: FakeUpstream, gateway: FakeGateway) -> Iterator[Bench]:
    made = Bench(upstream, gateway)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries and offers are short."""
    monkeypatch.setattr(retry_policy, "_backoff", lambda state: 0.01)
    monkeypatch.setattr(post_module, "_backoff", lambda state: 0.02)
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.0)
    monkeypatch.setattr(timing, "REGISTERING_TIME", 0.2)
    monkeypatch.setattr(timing, "SHORTEST_OFFER", 0.3)


def told(outcome: Outcome) -> dict[str, Any]:
    """The outcome's record, which is valid and holds no secret."""
    text = outcome.record.decode()
    made: dict[str, Any] = json.loads(text)
    VALIDATOR.validate(made)
    for secret in (API_KEY, SECRET, "sk-clients"):
        assert secret not in text
    assert made["outcome"]["status"] == outcome.status
    assert made["outcome"]["decision"] == outcome.decision.value
    assert made["request_id"] == (outcome.request_id or None)
    assert made["attempts"] == outcome.attempts
    return made


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


# --- answered ---


@both
def test_a_task_is_answered(bench: Bench, stream: bool) -> None:
    outcome, answer = bench.run(stream=stream, temperature=0.5, max_tokens=7)
    assert (outcome.decision, outcome.status, outcome.upstream_answered) == (Decision.ACK, "answered", True)
    assert (outcome.stream, outcome.attempts, outcome.fault) == (stream, 1, None)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (7, 5)
    assert answer.wait().faults == []
    assert answer.text == (WORDS if stream else "wörd " * 5)
    assert bench.progress.shown[-1] is AnswerState.ENDED
    assert bench.progress.tokens == 5
    made = told(outcome)
    assert made["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert (made["usage_source"], made["model"], made["upstream_model"]) == ("upstream", "m", "m")
    assert (made["request"]["stream"], made["request"]["messages"], made["request"]["temperature"]) == (stream, 1, 0.5)
    assert made["client"]["user_agent"] == "curl/8"
    assert made["attempt_id"] == f"{outcome.request_id}/node-1/{bench.number}"
    moments = list(made["timestamps"].values())
    assert None not in moments
    assert moments == sorted(moments)
    assert None not in made["durations_ms"].values()
    assert made["durations_ms"]["queued"] >= 2000
    assert (made["outcome"]["end_reason"], made["outcome"]["http_status"], made["outcome"]["error"]) == (
        "stop",
        200,
        None,
    )


def test_a_plain_answer_is_upstreams_byte_for_byte(bench: Bench) -> None:
    _, answer = bench.run({"size": 100_000})
    assert answer.wait().raw_chunks == bench.up.requests[0].events


def test_a_streams_chunks_are_upstreams_byte_for_byte(bench: Bench) -> None:
    _, answer = bench.run(stream=True, stream_options={"include_usage": True})
    assert answer.wait().raw_chunks == bench.up.requests[0].events


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
def test_the_usage_chunk_is_hidden_from_a_client_who_did_not_ask(bench: Bench, options: dict[str, Any]) -> None:
    outcome, answer = bench.run(stream=True, **options)
    *others, usage = bench.up.requests[0].events
    assert '"choices":[]' in usage
    assert answer.wait().raw_chunks == others
    assert outcome.completion_tokens == 5


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_a_plain_upstreams_usage_is_hidden_or_shown_the_same_way(bench: Bench, options: dict[str, Any]) -> None:
    outcome, answer = bench.run({"no_stream": True}, stream=True, **options)
    assert ("usage" in answer.wait().chunks[-1]) is bool(options)
    assert (answer.text, outcome.completion_tokens) == ("wörd " * 5, 5)


def test_usage_on_the_last_content_chunk_reaches_the_client_with_it(bench: Bench) -> None:
    outcome, answer = bench.run({"usage_on_last": True}, stream=True)
    assert answer.wait().raw_chunks == bench.up.requests[0].events
    assert (outcome.completion_tokens, answer.text) == (5, WORDS)


def test_a_stream_whose_usage_never_came_is_counted(bench: Bench) -> None:
    outcome, _ = bench.run({"no_usage": True}, stream=True)
    made = told(outcome)
    assert (made["usage_source"], made["usage"]["completion_tokens"], outcome.completion_tokens) == ("counted", 5, 5)


def test_a_plain_answer_without_usage_bills_nothing(bench: Bench) -> None:
    made = told(bench.run({"no_usage": True})[0])
    assert (made["usage_source"], set(made["usage"].values())) == ("none", {None})


def test_the_tasks_stream_decides_how_upstream_is_asked(bench: Bench) -> None:
    for stream in (True, False):
        outcome, answer = bench.run(stream=stream, changes={"data": {"messages": [], "stream": not stream}})
        assert outcome.status == "answered"
        assert answer.wait().text
        assert bench.up.requests[-1].json["stream"] is stream


def test_upstream_model_is_asked_instead_of_the_tasks(upstream: FakeUpstream, gateway: FakeGateway) -> None:
    bench = Bench(upstream, gateway, UPSTREAM_MODEL="gpt-x")
    made = told(bench.run()[0])
    bench.close()
    assert upstream.requests[0].json["model"] == "gpt-x"
    assert (made["model"], made["upstream_model"]) == ("m", "gpt-x")


def test_an_answer_after_retries_is_one_answer(bench: Bench) -> None:
    outcome, answer = bench.run({"status": 503, "key": "k", "fail_times": 2})
    assert (outcome.status, outcome.attempts) == ("answered", 3)
    assert answer.wait().faults == []


# --- refused, given up, sent back ---

ENDS: dict[str, tuple[dict[str, Any], Decision, str, FaultKind]] = {
    "400": ({"status": 400, "err_type": "invalid_request_error"}, Decision.ACK, "refused", FaultKind.CLIENT),
    "404": ({"status": 404}, Decision.NAK, "model_unknown", FaultKind.MODEL),
    "413": ({"status": 413, "html": True}, Decision.ACK, "refused", FaultKind.CLIENT),
    "422": ({"status": 422}, Decision.ACK, "refused", FaultKind.CLIENT),
    "redirect": ({"redirect_to": "/v1/chat/completions"}, Decision.NAK, "address_unknown", FaultKind.ADDRESS),
    "policy": ({"status": 400, "err_code": "content_policy_violation"}, Decision.ACK, "refused", FaultKind.CLIENT),
    "503": ({"status": 503}, Decision.NAK, "upstream_trouble", FaultKind.UNAVAILABLE),
    "reset": ({"reset": True}, Decision.NAK, "upstream_trouble", FaultKind.PASSING),
    "html": ({"html": True}, Decision.NAK, "address_unknown", FaultKind.ADDRESS),
    "429": ({"status": 429, "err_code": "rate_limit_exceeded"}, Decision.NAK, "rate_limited", FaultKind.RATE_LIMIT),
    "429_ramp": ({"status": 429, "err_code": "slow_down"}, Decision.NAK, "rate_limited", FaultKind.RAMP),
    "429_quota": ({"status": 429, "err_code": "insufficient_quota"}, Decision.NAK, "quota_used_up", FaultKind.QUOTA),
    "401": ({"status": 401, "err_code": "invalid_api_key"}, Decision.NAK, "key_refused", FaultKind.KEY),
    "404_model": ({"status": 404, "err_code": "model_not_found"}, Decision.NAK, "model_unknown", FaultKind.MODEL),
}


@both
@pytest.mark.parametrize(("directive", "decision", "status", "kind"), ENDS.values(), ids=ENDS.keys())
def test_a_fault_of_upstream_ends_a_delivery(
    bench: Bench, directive: dict[str, Any], decision: Decision, status: str, kind: FaultKind, stream: bool
) -> None:
    outcome, answer = bench.run({"err_msg": "what upstream said", **directive}, stream)
    assert (outcome.decision, outcome.status, outcome.upstream_answered) == (decision, status, False)
    assert outcome.fault is not None
    assert outcome.fault.kind is kind
    made = told(outcome)
    assert made["outcome"]["error"] is not None
    if decision is Decision.NAK:
        assert not answer.posts + answer.frames  # type: ignore[operator]
        assert AnswerState.STARTED not in bench.progress.shown
        # What its client gets if the fault turns out to be the task's own.
        assert (outcome.client_error is not None) is (kind in NODE_KINDS)
        if outcome.client_error is not None and "html" not in directive and "redirect_to" not in directive:
            assert outcome.client_error["error"]["message"] == "what upstream said"
        return
    assert answer.wait().faults == []
    assert answer.error is not None
    assert set(answer.error) == {"message", "type", "param", "code"}
    if "redirect_to" not in directive and "html" not in directive:
        assert answer.error["message"] == "what upstream said"


@both
@pytest.mark.parametrize("name", [name for name, row in ENDS.items() if row[1] is Decision.NAK])
def test_a_fault_that_lasts_beyond_the_redeliveries_gives_the_client_an_error(
    bench: Bench, name: str, stream: bool
) -> None:
    outcome, answer = bench.run(ENDS[name][0], stream, redeliveries=3)
    if ENDS[name][3] in NODE_KINDS:  # the supervisor decides what the client is told
        assert (outcome.decision, outcome.client_error is not None) == (Decision.NAK, True)
        assert not answer.posts + answer.frames  # type: ignore[operator]
        return
    assert (outcome.decision, outcome.status) == (Decision.ACK, "gave_up")
    assert answer.wait().faults == []
    assert answer.error is not None
    assert told(outcome)["redeliveries"] == 3


@both
def test_a_fault_at_the_end_of_the_tasks_time_is_a_timeout_error(bench: Bench, stream: bool) -> None:
    """It would be too old when it came back."""
    outcome, answer = bench.run({"hang_ms": 60_000}, stream, seconds=0.2)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "expired")
    assert answer.wait().error == {
        "message": "The request was not answered within 300 seconds. Please try again.",
        "type": "timeout", "param": None, "code": "timeout",
    }  # fmt: skip


@pytest.mark.parametrize("retry_after", ["7", "3600"])
def test_what_upstream_asks_to_wait_goes_with_a_task_that_goes_back(bench: Bench, retry_after: str) -> None:
    outcome, _ = bench.run({"status": 429, "headers": {"Retry-After": retry_after}}, seconds=5)
    assert outcome.decision is Decision.NAK
    assert outcome.fault is not None
    assert outcome.fault.retry_after == float(retry_after)


@both
@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_is_not_found_is_the_nodes_fault_only_if_it_is_its_own(
    bench: Bench, own: bool, stream: bool
) -> None:
    outcome, _ = bench.run({"status": 404, "err_code": "model_not_found"}, stream, model="m" if own else "gpt-99")
    assert outcome.status == ("model_unknown" if own else "refused")


# --- in the middle of a stream ---

BREAKS: dict[str, dict[str, Any]] = {
    "error": {"error_mid": True},
    "cut": {"cut_after": 3},
    "no_end": {"no_finish": True, "no_done": True, "no_usage": True},
}


@pytest.mark.parametrize("directive", BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.parametrize("redeliveries", [0, 3])
def test_a_stream_that_breaks_ends_with_an_error_and_is_billed(
    bench: Bench, directive: dict[str, Any], redeliveries: int
) -> None:
    release = threading.Thread(target=lambda: bench.gateway.wait_for_frames("x", 1) and bench.up.open_gate("g"))
    release.start()
    outcome, answer = bench.run({"gate_chunks": "g", **directive}, stream=True, id="x", redeliveries=redeliveries)
    release.join()
    assert (outcome.decision, outcome.status, outcome.attempts) == (Decision.ACK, "broken", 1)
    assert answer.wait().faults == []
    assert (answer.ends, answer.frames[-1].end, answer.error is not None) == (1, True, True)
    made = told(outcome)
    assert made["usage_source"] == "counted"
    assert made["usage"]["completion_tokens"] == outcome.completion_tokens >= 1
    assert bench.progress.shown[0] is AnswerState.STARTED


def test_usage_that_came_before_the_break_is_billed(bench: Bench) -> None:
    chunk = {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 41}}
    pieces = [f"data: {json.dumps(chunk)}\n\n", 'data: {"error":{"message":"x"}}\n\n']
    made = told(bench.run({"raw": pieces, "chunk_ms": 300}, stream=True)[0])
    assert (made["usage_source"], made["usage"]["completion_tokens"]) == ("upstream", 41)


# --- the client ---


def test_a_plain_request_ends_when_its_client_disconnects(bench: Bench) -> None:
    outcome, answer = bench.run(known=False)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "client_gone")
    assert len(answer.posts) > 1
    assert told(outcome)["usage_source"] == "upstream"


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
    made = told(outcome)
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
    assert told(outcome)["timestamps"]["answered"] is None


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
    assert told(outcome)["usage_source"] == "upstream"


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


# --- no upstream call ---


@both
def test_a_task_that_is_too_old_is_not_run(bench: Bench, stream: bool) -> None:
    outcome, answer = bench.run(stream=stream, seconds=-1)
    assert (outcome.decision, outcome.status, outcome.attempts) == (Decision.ACK, "expired", 0)
    assert answer.wait().error is not None
    assert answer.error["code"] == "timeout"  # type: ignore[index]
    assert bench.up.requests == []
    made = told(outcome)
    assert (made["usage_source"], made["timestamps"]["upstream_sent"]) == ("none", None)


@both
def test_a_rejection_is_sent_to_the_client_instead_of_running_the_task(bench: Bench, stream: bool) -> None:
    error = {"error": {"message": "x", "type": "server_error", "param": None, "code": "worker_died"}}
    outcome, answer = bench.run(stream=stream, rejection=Rejection("poison", Decision.DEAD_LETTER, error, 0))
    assert (outcome.decision, outcome.status) == (Decision.DEAD_LETTER, "poison")
    assert answer.wait().data == error
    assert (answer.ends, bench.up.requests) == (int(stream), [])


@both
def test_a_rejection_ends_a_stream_that_has_begun(bench: Bench, stream: bool) -> None:
    """Of a worker that died: its successor ends what the client has begun to see."""
    error = {"error": {"message": "x", "type": "upstream_error", "param": None, "code": "stream_interrupted"}}
    outcome, answer = bench.run(stream=stream, rejection=Rejection("broken", Decision.ACK, error, 0))
    assert (outcome.decision, outcome.status) == (Decision.ACK, "broken")
    assert answer.wait().error == error["error"]


NOT_TASKS = {
    "no_data": ({"data": ...}, True),
    "data_as_text": ({"data": "x"}, True),
    "infinite_number": ({"data": {"temperature": 1e400}}, False),
    "stream_missing": ({"stream": ...}, True),
    "no_endpoint": ({"endpoint": ...}, False),
    "endpoint_of_a_file": ({"endpoint": "file:///etc/passwd"}, False),
    "endpoint_without_dns_name": ({"endpoint": "http://a..b/res"}, False),
}


@both
@pytest.mark.parametrize(("changes", "is_told"), NOT_TASKS.values(), ids=NOT_TASKS.keys())
def test_a_message_that_is_not_a_task_is_dead_lettered_and_its_client_gets_an_error(
    bench: Bench, changes: dict[str, Any], is_told: bool, stream: bool
) -> None:
    outcome, answer = bench.run(stream=stream, id="x", changes=changes)
    assert (outcome.decision, outcome.status) == (Decision.DEAD_LETTER, "malformed")
    assert outcome.reason
    assert bench.up.requests == []
    if is_told:
        assert answer.wait().error is not None
        assert answer.error["type"] == "invalid_request_error"  # type: ignore[index]
        assert outcome.request_id == "x"
    told(outcome)


def test_a_body_that_can_be_read_and_not_be_written_is_no_task(bench: Bench) -> None:
    bench.gateway.register("x")
    payload = bench.payload("x", {}, False, {}).replace(b'"model": "m"', b'"model": 1e400')
    outcome = attempt.run(bench.job(payload), bench.services, bench.progress)
    assert (outcome.decision, outcome.status) == (Decision.DEAD_LETTER, "malformed")
    assert bench.gateway.answer("x").wait().error is not None
    told(outcome)


def test_a_message_that_can_not_be_read_at_all_is_dead_lettered(bench: Bench) -> None:
    for payload in (b"", b"rubbish", b"\xff" * 100, b"[" * 100_000, b'{"request_id": 1}'):
        outcome = attempt.run(bench.job(payload), bench.services, bench.progress)
        assert (outcome.decision, outcome.status, outcome.request_id) == (Decision.DEAD_LETTER, "malformed", "")
        assert told(outcome)["request"]["bytes"] == len(payload)


# --- faults of our own ---


@both
def test_an_internal_error_before_anything_was_sent_naks_the_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    monkeypatch.setattr(Upstream, "_ask", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR):
        outcome, answer = bench.run(stream=stream)
    assert (outcome.decision, outcome.status) == (Decision.NAK, "upstream_trouble")
    assert not answer.posts + answer.frames  # type: ignore[operator]
    assert "ZeroDivisionError" in caplog.text
    assert told(outcome)["outcome"]["error"]["code"] == "internal_error"


def test_a_fault_of_our_own_in_the_middle_of_a_stream_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "count_tokens", lambda *_: 1 / 0)
    outcome, answer = bench.run(stream=True)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "broken")
    assert answer.wait().error is not None
    assert answer.faults == []
    bench.up.wait_for_inflight(0)


def test_a_fault_of_our_own_after_the_end_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workernode.upstream.streamed_answer.StreamedAnswer.finish", lambda _: 1 / 0)
    outcome, answer = bench.run(stream=True)
    assert (outcome.decision, outcome.status) == (Decision.ACK, "answered")
    assert answer.wait().faults == []


@both
@pytest.mark.parametrize("redeliveries", [0, 3])
@pytest.mark.parametrize("changes", [{}, {"data": 5}], ids=["task", "not_a_task"])
def test_a_fault_of_our_own_on_the_way_back_yields_a_decision(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stream: bool, redeliveries: int, changes: dict[str, Any]
) -> None:
    """A slot whose thread dies would never be seen again, and its message would never be acked."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr(Gateways, "post", fail)
    monkeypatch.setattr(Gateways, "stream", fail)
    outcome, _ = bench.run(stream=stream, redeliveries=redeliveries, changes=changes)
    assert isinstance(outcome, Outcome)
    told(outcome)


@both
def test_a_record_that_cannot_be_made_is_replaced_by_one_without_the_tasks_details(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The decision stands: the client has its answer."""
    monkeypatch.setattr(record, "request_of", lambda *_, **__: 1 / 0)
    outcome, answer = bench.run(stream=stream)
    assert answer.wait().faults == []
    assert (outcome.decision, outcome.status) == (Decision.ACK, "answered")
    assert told(outcome)["request"]["messages"] is None


# --- secrets ---


@both
@pytest.mark.parametrize("status", [401, 400, 500])
def test_the_nodes_key_is_in_no_output(
    bench: Bench, caplog: pytest.LogCaptureFixture, status: int, stream: bool
) -> None:
    """Upstreams repeat the key that they refuse."""
    directive = {"status": status, "err_msg": f"Incorrect API key provided: {API_KEY}.", "err_code": f"x-{API_KEY}"}
    with caplog.at_level(logging.DEBUG):
        outcome, answer = bench.run(directive, stream, redeliveries=3)
    if status == 401:  # the supervisor decides whether the client gets this error
        error: Any = outcome.client_error
        assert "***" in error["error"]["message"]
        assert API_KEY not in repr(outcome) + outcome.record.decode() + caplog.text
        return
    answer.wait()
    texts = [one.body.decode() for one in answer.posts] + [one.text for one in answer.frames]
    assert texts
    for text in [*texts, repr(outcome), outcome.record.decode(), caplog.text]:
        assert API_KEY not in text
    assert answer.error is not None
    assert "***" in answer.error["message"]  # type: ignore[index]


def test_the_clients_headers_are_not_passed_on(bench: Bench) -> None:
    for stream in (False, True):
        outcome, _ = bench.run(stream=stream)
        assert SECRET not in repr(outcome)
    for one in bench.up.requests:
        assert SECRET not in one.request.head.decode() + one.body.decode()


def test_an_outcome_tells_nothing_of_the_conversation(bench: Bench) -> None:
    canary = "a-word-of-the-prompt"
    payload = {"messages": [{"role": "user", "content": canary}], "model": "m"}
    for stream in (False, True):
        outcome, answer = bench.run(stream=stream, changes={"data": payload})
        text = answer.wait().text
        assert text
        assert canary not in repr(outcome)
        assert text not in outcome.record.decode()


# --- whatever comes ---

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "request_id": VALUE | st.just("x"),
        "stream": VALUE | st.booleans(),
        "endpoint": VALUE | st.sampled_from(["http://127.0.0.1:1/res", "ws://127.0.0.1:1/res/ws", "http://a..b/"]),
        "data": VALUE
        | st.fixed_dictionaries({}, optional={"model": VALUE, "messages": VALUE, "user": VALUE, "n": VALUE}),
        "metadata": VALUE | st.fixed_dictionaries({"headers": st.dictionaries(st.just("User-Agent"), VALUE)}),
    },
)


@hypothesis_settings(max_examples=60)
@given(message=st.binary(max_size=60) | MESSAGE.map(lambda value: json.dumps(value).encode()))
def test_any_message_yields_a_decision(bench: Bench, monkeypatch: pytest.MonkeyPatch, message: bytes) -> None:
    monkeypatch.setattr(timing, "SHORTEST_OFFER", 0.0)
    bench.up.script(lambda one: {})
    told(attempt.run(bench.job(message, seconds=0.001), bench.services, bench.progress))
