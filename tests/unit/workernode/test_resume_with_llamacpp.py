"""What llama.cpp is asked about a text that it broke off: how many tokens it has, and whether it goes on with it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway import Answer, FakeGateway
from tests.support.llamacpp_tokens import TokenModel
from tests.support.upstream import FakeUpstream
from tests.unit.workernode.attempt.bench import LONG, Bench, record_of
from workernode import attempt, llamacpp, relay
from workernode.call_stats import CallStats
from workernode.gateway import timing
from workernode.protocol import Outcome, SavedStream
from workernode.upstream import client, retry_policy

USAGE = {"include_usage": True}
WAVE, CAT = "🌊".encode(), "🐱".encode()
SEA = [b"The", b" sea", b" ", *(bytes([each]) for each in WAVE), *(bytes([each]) for each in CAT), b" end"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_policy, "_backoff", lambda state: 0.01)
    monkeypatch.setattr(relay, "PAUSE", 0.01)
    monkeypatch.setattr(llamacpp, "PAUSE", 0.01)
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.0)


@pytest.fixture(scope="module")
def fakes() -> Iterator[tuple[FakeUpstream, FakeGateway]]:
    upstream, gateway = FakeUpstream(), FakeGateway()
    yield upstream, gateway
    gateway.close()
    upstream.close()


@pytest.fixture
def bench(fakes: tuple[FakeUpstream, FakeGateway]) -> Iterator[Bench]:
    one = Bench(*fakes, STREAM_RESUME="llamacpp")
    one.up.pages.clear()
    yield one
    one.close()


def serve(bench: Bench, model: TokenModel) -> None:
    bench.up.script(model)
    bench.up.pages |= {"/tokenize": model.tokenize, "/apply-template": model.apply_template}


def ask(bench: Bench, limit: int | None) -> tuple[Outcome, Answer]:
    chat = {} if limit is None else {"max_tokens": limit}
    messages = [{"role": "user", "content": "What is the sea like?"}]
    return bench.run(stream=True, messages=messages, stream_options=USAGE, **chat)


def seen(answer: Answer) -> tuple[str, list[str], list[int]]:
    """The client's text, finish reasons and counts of tokens."""
    chunks = answer.wait().chunks
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return text, reasons, [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]


def assert_as_unbroken(bench: Bench, model: TokenModel, limit: int | None, cuts: list[int]) -> None:
    serve(bench, model)
    model.cuts, model.limits = cuts, []
    outcome, answer = ask(bench, limit)
    text, reasons, counts = seen(answer)
    reason, tokens = model.finish(limit)
    assert (text, reasons, answer.error, answer.ends) == ("".join(model.chunks(limit)), [reason], None, 1)
    assert record_of(outcome)["usage"]["completion_tokens"] == tokens
    assert set(counts) <= {tokens}  # the node's own end has none


@pytest.mark.parametrize("limit", [*range(1, len(SEA) + 2), None])
def test_wherever_it_is_cut_a_stream_has_the_tokens_that_were_asked_for(bench: Bench, limit: int | None) -> None:
    model = TokenModel(SEA)
    for cut in range(len(model.chunks(limit)) + 1):
        assert_as_unbroken(bench, model, limit, [cut])


LETTERS = st.sampled_from(["a", "é", "ع", "ำ", "水", "🌊", "🏳", "\u200d"])
WAYS = st.sampled_from(["whole", "bytes", "halves"])


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    tokens: list[bytes] = []
    for letter, way in draw(st.lists(st.tuples(LETTERS, WAYS), min_size=1, max_size=8)):
        raw = letter.encode()
        size = {"whole": len(raw), "bytes": 1, "halves": max(1, len(raw) // 2)}[way]
        tokens += [raw[at : at + size] for at in range(0, len(raw), size)]
    return tokens


@given(tokens=answers(), data=st.data())
def test_texts_of_many_scripts_cut_twice_have_the_tokens_that_were_asked_for(
    bench: Bench, tokens: list[bytes], data: st.DataObject
) -> None:
    model = TokenModel(tokens)
    limit = data.draw(st.none() | st.integers(1, len(tokens) + 1))
    first = data.draw(st.integers(0, len(model.chunks(limit))))
    second = data.draw(st.integers(0, len(tokens)))
    assert_as_unbroken(bench, model, limit, [first, second])


def test_another_worker_goes_on_with_the_tokens_that_are_left(bench: Bench) -> None:
    model = TokenModel(SEA)
    serve(bench, model)
    text = "The sea 🌊"
    asked = CallStats(attempts=1, first_sent_at=1.0, sent_at=1.0, first_at=2.0, text_chunks=4)
    saved = SavedStream({"id": "first", "created": 7, "model": "m"}, True, text, 4, 1, False, asked)
    bench.gateway.register("x")
    payload = bench.payload("x", {}, True, {}, messages=[{"role": "user", "content": "?"}], max_tokens=11)
    outcome = attempt.run(replace(bench.job(payload), resume=saved), bench.services, bench.progress)
    assert (seen(bench.gateway.answer("x"))[0], model.limits) == ("🐱", [4])
    made = record_of(outcome)
    assert (made["usage"]["completion_tokens"], made["resumes"][0]["after_tokens"]) == (11, 7)


# Upstream does not tell: the chunks count.


@pytest.mark.parametrize(
    "page",
    [(404, b"{}"), (503, b"{}"), (500, b""), (200, b""), (200, b"[]"), (200, b'{"tokens": 5}'), (200, b"{"),
     (200, b'{"tokens": []}'), (302, b"")],
    ids=str,
)  # fmt: skip
def test_without_a_count_the_chunks_count(bench: Bench, page: tuple[int, bytes]) -> None:
    model = TokenModel(SEA)
    serve(bench, model)
    bench.up.pages["/tokenize"] = lambda request: page
    model.cuts = [4]
    _, answer = ask(bench, 11)
    assert model.limits == [11, 7]
    assert answer.wait().error is None


def test_a_server_that_does_not_answer_about_tokens_does_not_keep_the_stream(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ASIDE_TIME", 0.0)
    model = TokenModel(SEA)
    serve(bench, model)
    model.cuts = [4]
    _, answer = ask(bench, 11)
    assert (model.limits, answer.wait().error) == ([11, 7], None)


def make_local(bench: Bench) -> None:
    """From now on upstream is the node's own server."""
    bench.services = replace(bench.services, settings=replace(bench.settings, node_type="local"))


def test_the_nodes_own_server_is_asked_until_it_has_started(bench: Bench) -> None:
    make_local(bench)
    model = TokenModel(SEA)
    serve(bench, model)
    pages: Iterator[Any] = itertools.chain([lambda request: (503, b"")] * 3, itertools.repeat(model.tokenize))
    bench.up.pages["/tokenize"] = lambda request: next(pages)(request)
    model.cuts = [4]
    outcome, answer = ask(bench, 11)
    assert (model.limits, outcome.attempts, seen(answer)[0]) == ([11, 4], 2, "The sea 🌊🐱")


def test_the_nodes_own_server_that_stays_away_ends_the_stream_with_its_time(bench: Bench) -> None:
    make_local(bench)
    model = TokenModel(SEA)
    serve(bench, model)
    bench.up.pages["/tokenize"] = lambda request: (503, b"")
    bench.up.script(lambda exchange: model(exchange) if not model.limits else {"status": 503})
    model.cuts = [4]
    messages = [{"role": "user", "content": "?"}]
    outcome, answer = bench.run(stream=True, seconds=LONG / 20, messages=messages, max_tokens=11)
    assert (outcome.status, answer.wait().ends) == ("broken", 1)


def test_a_text_that_has_the_tokens_of_its_limit_is_whole_without_a_question(bench: Bench) -> None:
    model = TokenModel([b"a", b"b", b"c"])
    serve(bench, model)
    bench.up.other_requests.clear()
    model.cuts = [2]
    _, answer = ask(bench, 2)
    assert (*seen(answer)[:2], bench.up.other_requests) == ("ab", ["length"], [])


# A server that would begin a new answer behind the text.


def prompt(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"prompt": text}).encode()


@pytest.mark.parametrize(
    ("is_local", "page", "goes_on"),
    [
        (True, prompt("<assistant>The sea </s><assistant>"), False),
        (False, prompt("<assistant>The sea </s><assistant>"), False),
        (True, prompt("<assistant>The sea "), True),
        (True, (404, b"{}"), False),  # an old server: it is known what it does
        (False, (404, b"{}"), True),  # behind a proxy; the operator has set STREAM_RESUME
        (True, (200, b'{"prompt": 5}'), False),
        (True, (200, b"{"), False),
        (True, (500, b""), False),
        (True, (400, b'{"error": {"message": "thinking"}}'), False),
    ],
    ids=str,
)
def test_a_text_does_not_go_on_where_the_server_would_begin_a_new_answer(
    bench: Bench, is_local: bool, page: tuple[int, bytes], goes_on: bool
) -> None:
    if is_local:
        make_local(bench)
    model = TokenModel(SEA)
    serve(bench, model)
    bench.up.pages["/apply-template"] = lambda request: page
    model.cuts = [3]
    outcome, answer = ask(bench, None)
    chunks = answer.wait().chunks
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
    assert (outcome.status, text) == (("answered", "The sea 🌊🐱 end") if goes_on else ("broken", "The sea "))
    assert (len(model.limits), outcome.resumes) == ((2, 1) if goes_on else (1, 0))
