"""A task that upstream answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import FakeGateway
from tests.support.tokenizer import write_tokenizer
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.attempt.bench import SECRET, WORDS, Bench, both, record_of
from workernode import attempt
from workernode.call_stats import CallStats
from workernode.gateway import StreamReply
from workernode.outcome import log_fields
from workernode.protocol import (
    AnswerState,
    ClaimAsked,
    Decision,
    Granted,
    Lease,
    SavedStream,
    Target,
)
from workernode.stream_claim import StreamClaims
from workernode.token_estimate import TOKENS_OF_THE_REPLY, TOKENS_PER_MESSAGE, TokenEstimator


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
    made = record_of(outcome)
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
    made = record_of(outcome)
    assert (made["usage_source"], made["usage"]["completion_tokens"], outcome.completion_tokens) == ("counted", 5, 5)


def test_a_plain_answer_without_usage_bills_nothing(bench: Bench) -> None:
    made = record_of(bench.run({"no_usage": True})[0])
    assert (made["usage_source"], set(made["usage"].values())) == ("none", {None})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sends_usage", [False, True])
def test_with_a_tokenizer_what_upstream_does_not_count_is_estimated(
    stream: bool, sends_usage: bool, bench: Bench, tmp_path: Path
) -> None:
    bench.services = replace(bench.services, estimator=TokenEstimator(str(write_tokenizer(tmp_path))))
    outcome, _ = bench.run({"no_usage": not sends_usage}, stream=stream)
    made = record_of(outcome)
    assert made["usage_source"] == ("upstream" if sends_usage else "estimated")
    if not sends_usage:
        prompt = ("lab", ':{"', "no_usage", '":', "true", "}")
        assert outcome.prompt_tokens == len(prompt) + TOKENS_PER_MESSAGE + TOKENS_OF_THE_REPLY
        assert outcome.completion_tokens == 5


def test_the_tasks_stream_decides_how_upstream_is_asked(bench: Bench) -> None:
    for stream in (True, False):
        outcome, answer = bench.run(stream=stream, changes={"data": {"messages": [], "stream": not stream}})
        assert outcome.status == "answered"
        assert answer.wait().text
        assert bench.up.requests[-1].json["stream"] is stream


def test_upstream_model_is_asked_instead_of_the_tasks(upstream: FakeUpstream, gateway: FakeGateway) -> None:
    bench = Bench(upstream, gateway, UPSTREAM_MODEL="gpt-x")
    made = record_of(bench.run()[0])
    bench.close()
    assert upstream.requests[0].json["model"] == "gpt-x"
    assert (made["model"], made["upstream_model"]) == ("m", "gpt-x")


def test_an_answer_after_retries_is_one_answer(bench: Bench) -> None:
    outcome, answer = bench.run({"status": 503, "key": "k", "fail_times": 2})
    assert (outcome.status, outcome.attempts) == ("answered", 3)
    assert answer.wait().faults == []


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@both
def test_the_clients_trace_reaches_upstream_and_its_other_headers_do_not(bench: Bench, stream: bool) -> None:
    headers = {
        "Traceparent": [f"00-{TRACE}-{SPAN}-01"], "Tracestate": ["a=1"], "X-Request-Id": ["r-7"],
        "Authorization": [SECRET], "Cookie": ["c"], "X-Other": ["o"],
    }  # fmt: skip
    outcome, _ = bench.run(stream=stream, changes={"metadata": {"headers": headers}})
    (asked,) = bench.up.requests
    assert asked.headers["traceparent"] == f"00-{TRACE}-{SPAN}-01"
    assert (asked.headers["tracestate"], asked.headers["x-request-id"]) == ("a=1", "r-7")
    assert not {"cookie", "x-other"} & set(asked.headers)
    assert SECRET not in repr(asked.headers)
    assert record_of(outcome)["trace_id"] == log_fields(outcome, None, 0)["trace_id"] == TRACE


def test_a_trace_begins_here_where_the_client_has_none_and_the_operators_own_header_wins(bench: Bench) -> None:
    outcome, _ = bench.run()
    bench.upstream.set_target(Target(bench.settings.api_url, None, (("Traceparent", "own"),)))
    bench.run()
    begun, own = [asked.headers["traceparent"] for asked in bench.up.requests]
    assert begun.split("-")[1] == record_of(outcome)["trace_id"]
    assert own == "own"


@both
def test_upstream_gets_what_the_guards_make_of_a_request_and_the_record_names_it(
    upstream: FakeUpstream, gateway: FakeGateway, stream: bool
) -> None:
    bench = Bench(
        upstream, gateway, REQUEST_SET='{"temperature": 0.1, "n": 1}', REQUEST_STRIP="user,logit_bias", MAX_TOKENS="50"
    )
    outcome, answer = bench.run(stream=stream, user="u-1", max_tokens=900, n=1, seed=3)
    answer.wait()
    (asked,) = upstream.requests
    sent = {name: value for name, value in asked.json.items() if name not in ("messages", "model", "stream_options")}
    assert sent == {"max_tokens": 50, "n": 1, "seed": 3, "temperature": 0.1, "stream": stream}
    made = record_of(outcome)
    assert made["request"]["changed"] == ["user", "temperature", "max_tokens"]
    assert (made["request"]["max_tokens"], made["client"]["user"]) == (900, "u-1")  # what the client asked for
    bench.close()


class Asked:
    """A supervisor that grants everything, and how often upstream had been asked by then."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.claims = StreamClaims(self._ask, lambda: Lease(float("inf")))
        self.claims.ask_ahead = True
        self.questions: list[tuple[bool, int]] = []  # is it about the end, requests that upstream had got

    def _ask(self, asked: ClaimAsked) -> None:
        self.questions.append((asked.is_end, len(self._bench.up.requests)))
        self.claims.answered(Granted(asked.number, True, asked.is_end))

    def run(self, **more: Any) -> None:
        """Run a stream that is claimed."""
        self._bench.gateway.register("x")
        payload = self._bench.payload("x", {}, True, {})
        job = replace(self._bench.job(payload), is_claimed=True, **more)
        outcome = attempt.run(job, self._bench.services, self._bench.progress, self.claims.open(job))
        assert (outcome.decision, self._bench.gateway.answer("x").wait().ends) == (Decision.ACK, 1)


def test_the_claim_of_a_stream_is_asked_for_before_upstream_is(bench: Bench) -> None:
    asked = Asked(bench)
    asked.run()
    assert asked.questions == [(False, 0), (True, 1)]


def test_a_stream_drops_what_its_gateway_has_not_taken_when_the_lease_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[StreamReply] = []
    monkeypatch.setattr(StreamReply, "drop_undelivered", lambda reply: dropped.append(reply))
    asked = Asked(bench)
    job = replace(bench.job(bench.payload("x", {}, True, {})), is_claimed=True)
    claim = asked.claims.open(job)
    assert claim is not None
    bench.gateway.register("x")
    attempt.run(job, bench.services, bench.progress, claim)
    claim.on_lease_end()
    assert len(dropped) == 1


def test_a_stream_that_goes_on_after_its_workers_death_does_not_ask_ahead(bench: Bench) -> None:
    """It has begun before, and shows nothing of how soon upstream begins to answer."""
    asked = Asked(bench)
    asked.claims.ask_ahead = False
    stats = CallStats(attempts=1, first_sent_at=1.0, sent_at=1.0, first_at=2.0, text_chunks=1)
    asked.run(resume=SavedStream({"id": "a", "created": 7, "model": "m"}, True, "wörd ", 1, 0, True, stats))
    assert not asked.claims.ask_ahead
