"""What is no answer, and in the middle of a stream; and what is safe."""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import API_KEY
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.upstream.client.asker import LONG, WORDS, Asker, texts
from workernode.errors import ClientGone, UpstreamFault
from workernode.net import exchange
from workernode.protocol import FaultKind
from workernode.upstream import streamed_answer
from workernode.upstream.chunks import Chunk
from workernode.upstream.retry_policy import ATTEMPTS

BAD: dict[str, dict[str, Any]] = {
    "error_in_a_200": {"raw": '{"error":{"message":"no","type":"server_error"}}'},
    "error_as_text_in_a_200": {"raw": '{"error":"no"}'},
    "empty": {"raw": ""},
    "json_that_is_no_completion": {"raw": '{"ok":true}'},
    "list": {"raw": "[]"},
    "nan": {"nan": True},
    "not_utf8": {"invalid_utf8": True},
    "deep": {"deep": 100_000},
    "truncated": {"truncated": True},
    "length_too_small": {"wrong_length": True},
    "cut": {"cut_after": 1},
    "no_content": {"status": 204, "raw": ""},
    "reset": {"reset": True},
    "closed": {"close": True},
    "503": {"status": 503},
    "408": {"status": 408},
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("directive", BAD.values(), ids=BAD.keys())
def test_what_is_no_answer_is_asked_again_a_few_times(
    ask: Asker, upstream: FakeUpstream, pauses: list[float], directive: dict[str, Any], stream: bool
) -> None:
    assert ask.fault({**directive, "no_stream": stream}, stream).kind in (FaultKind.PASSING, FaultKind.UNAVAILABLE)
    assert (len(upstream.requests), ask.asked.attempts, len(pauses)) == (ATTEMPTS, ATTEMPTS, ATTEMPTS - 1)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("directive", BAD.values(), ids=BAD.keys())
def test_an_upstream_that_recovers_in_time_answers(
    ask: Asker, upstream: FakeUpstream, directive: dict[str, Any], stream: bool
) -> None:
    directive = {**directive, "key": "k", "fail_times": 2, "no_stream": stream}
    answer = texts(ask.stream(directive)) if stream else ask.complete(directive).decode()
    assert "wörd" in answer
    assert ask.asked.attempts == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FaultKind.CLIENT),
        (404, FaultKind.MODEL),
        (401, FaultKind.KEY),
        (402, FaultKind.QUOTA),
        (307, FaultKind.ADDRESS),
        (405, FaultKind.ADDRESS),
        (403, FaultKind.REFUSED),
    ],
)
def test_what_asking_again_cannot_help_is_asked_once(
    ask: Asker, upstream: FakeUpstream, status: int, kind: FaultKind
) -> None:
    fault = ask.fault({"status": status})
    assert (fault.kind, fault.http_status, ask.asked.http_status) == (kind, status, status)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [0, 400, 403, 404])
def test_a_page_of_html_means_that_no_api_is_there(ask: Asker, upstream: FakeUpstream, status: int) -> None:
    kind = FaultKind.REFUSED if status == 403 else FaultKind.ADDRESS  # a firewall's page has the status 403
    assert ask.fault({"html": True, "status": status}).kind is kind
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_a_completion_with_any_2xx_is_an_answer(ask: Asker, upstream: FakeUpstream, status: int) -> None:
    """codicil PR #4: a good answer with status 201 was bought 16 times."""
    assert b"chat.completion" in ask.complete({"raw": '{"object":"chat.completion","choices":[{}]}', "status": status})
    assert len(upstream.requests) == 1


def test_a_redirect_is_not_followed(ask: Asker, upstream: FakeUpstream) -> None:
    assert ask.fault({"redirect_to": f"{upstream.url}/v1/chat/completions"}).kind is FaultKind.ADDRESS
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("value", "requests"), [("true", ATTEMPTS), ("false", 1)])
def test_x_should_retry_decides_whether_to_ask_again(
    ask: Asker, upstream: FakeUpstream, value: str, requests: int
) -> None:
    ask.fault({"status": 422 if value == "true" else 503, "headers": {"x-should-retry": value}})
    assert len(upstream.requests) == requests


def test_an_upstream_that_is_down_is_unavailable(ask: Asker, upstream: FakeUpstream) -> None:
    upstream.down()
    fault = ask.fault({})
    assert (fault.kind, fault.http_status, ask.asked.attempts) == (FaultKind.UNAVAILABLE, 0, ATTEMPTS)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_answer_that_is_too_large_is_not_asked_for_again(
    ask: Asker, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER", 1 << 20)
    for directive in ({"gzip_bomb_mb": 2, "no_stream": True}, {"big_mb": 2}):
        fault = ask.fault({"chunks": 1, **directive}, stream) if not stream or "no_stream" in directive else None
        if fault is None:
            relay = ask.begin({"chunks": 1, **directive})
            with pytest.raises(UpstreamFault) as caught:
                list(relay.batches())
            relay.abort()
            fault = caught.value
        assert fault.kind is (FaultKind.BROKEN if stream and "big_mb" in directive else FaultKind.CLIENT)
        assert fault.code == "answer_too_large"
    assert len(upstream.requests) == 2


BREAKS: dict[str, dict[str, Any]] = {
    "error": {"error_mid": True},
    "cut": {"cut_after": 2},
    "no_last_chunk": {"truncated": True, "no_done": True, "no_finish": True},
    "no_end": {"no_done": True, "no_finish": True},
    "not_json": {"nan": True},
    "not_utf8": {"invalid_utf8": True},
}


@pytest.mark.parametrize("directive", BREAKS.values(), ids=BREAKS.keys())
def test_a_stream_that_breaks_gives_what_came_and_is_not_asked_again(
    ask: Asker, upstream: FakeUpstream, directive: dict[str, Any]
) -> None:
    relay = ask.begin({"gate_chunks": "g", **directive})
    upstream.open_gate("g")
    got: list[list[Chunk]] = []
    with pytest.raises(UpstreamFault) as caught:
        got += relay.batches()  # one by one, as they come
    assert got[0][0].raw.decode() == upstream.requests[0].events[0]
    assert caught.value.kind is FaultKind.BROKEN
    assert set(caught.value.body["error"]) >= {"message", "type", "code"}
    assert len(upstream.requests) == 1


def test_chunks_before_an_error_in_the_same_piece_are_given_first(ask: Asker) -> None:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("", "a", "b")]
    role, *rest = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    relay = ask.begin({"raw": [role, "".join(rest) + 'data: {"error":{"message":"late"}}\n\n'], "chunk_ms": 300})
    got: list[list[Chunk]] = []
    with pytest.raises(UpstreamFault, match="late"):
        got += relay.batches()  # one by one, as they come
    assert "".join(map(texts, got)) == "ab"


def test_chunks_before_an_error_in_the_first_piece_are_given_first(ask: Asker, upstream: FakeUpstream) -> None:
    """As if they had come alone: what a stream's fault does must not depend on how the network cuts it."""
    good = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    relay = ask.begin({"raw": good + 'data: {"error":{"message":"late"}}\n\n'})
    got: list[list[Chunk]] = []
    with pytest.raises(UpstreamFault, match="late") as caught:
        got += relay.batches()  # one by one, as they come
    assert "".join(map(texts, got)) == "a"
    assert caught.value.kind is FaultKind.BROKEN
    assert len(upstream.requests) == 1


def test_an_error_before_anything_was_relayed_is_asked_again(ask: Asker, upstream: FakeUpstream) -> None:
    error = 'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    upstream.script(lambda one: {"raw": error} if not upstream.requests else None)
    assert texts(ask.stream()) == WORDS


def test_a_stream_that_falls_silent_breaks(ask: Asker) -> None:
    ask.upstream._read_timeout = 0.1
    relay = ask.begin({"gate_chunks": "never"})
    with pytest.raises(UpstreamFault, match="silent") as caught:
        list(relay.batches())
    relay.abort()
    assert caught.value.kind is FaultKind.BROKEN


def test_a_tail_that_does_not_come_costs_the_connection_and_no_time(
    ask: Asker, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After [DONE] the answer is whole; a server that does not end the body must not hold the slot."""
    ask.stream({"raw": ['data: {"choices":[]}\n\ndata: [DONE]\n\n', "x"], "chunk_ms": 60_000})
    upstream.wait_for_cancelled()


def test_a_whole_answer_whose_stream_does_not_end_is_logged_in_plain_words(
    ask: Asker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(streamed_answer, "USAGE_TIME", 0.1)
    chunk = 'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    ask.stream({"raw": [chunk, "x"], "chunk_ms": 60_000})
    assert "the answer is whole; upstream did not end its stream: no time is left" in caplog.messages


def test_a_client_that_leaves_ends_the_wait_for_upstream(ask: Asker, upstream: FakeUpstream) -> None:
    ask.client.due = time.monotonic() + 0.05
    with pytest.raises(ClientGone):
        ask.begin({"hang_ms": 60_000})
    upstream.wait_for_cancelled()


def test_a_client_that_leaves_ends_the_stream(ask: Asker, upstream: FakeUpstream) -> None:
    relay = ask.begin({"gate_chunks": "never"})
    batches = relay.batches()
    next(batches)
    ask.client.due = time.monotonic()
    with pytest.raises(ClientGone):
        next(batches)
    relay.abort()
    upstream.wait_for_cancelled()


def test_tls_is_verified(tls_upstream: tuple[FakeUpstream, Path]) -> None:
    fake, _ = tls_upstream
    with closing(Asker(fake)) as ask:
        fault = ask.fault({})
    assert "certificate is not valid" in fault.message
    assert not fake.requests


def test_a_trusted_upstream_over_tls_answers(
    tls_upstream: tuple[FakeUpstream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, authority = tls_upstream
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with closing(Asker(fake)) as ask:
        assert texts(ask.stream({"split": True})) == WORDS
        assert b"chat.completion" in ask.complete()


@pytest.mark.parametrize(
    "directive",
    [{"reset": True}, {"hang_ms": 60_000}, {"html": True}, {"truncated": True}, {"status": 500}, {"nan": True}],
)
def test_no_fault_of_our_own_words_holds_the_key_or_the_address(
    ask: Asker, upstream: FakeUpstream, directive: dict[str, Any]
) -> None:
    fault = ask.fault(directive, time_s=0.3 if "hang_ms" in directive else LONG)
    for text in (str(fault), repr(fault), json.dumps(fault.body), fault.info().message):
        assert API_KEY not in text
        assert upstream.address not in text
