"""Every case of tests/corpus against the real code of a worker: what the client sees, what becomes of the task, how
often upstream was asked.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.corpus import Case, ScriptedUpstream, cases, text_of
from tests.support.fixtures import API_KEY
from tests.support.gateway import Answer, FakeGateway
from workernode import attempt, record
from workernode.attempt import Services
from workernode.gateway import Gateways, timing
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, Job, Outcome, Target
from workernode.settings import load
from workernode.upstream import Upstream, retry_policy, streamed_answer

CASES = cases()
SECONDS = 10.0  # that a task has, where its case names none
FEWEST = 120  # cases


class Progress:
    def show_answer_state(self, state: AnswerState) -> None:
        pass

    def count_tokens(self, tokens: int) -> None:
        pass


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_policy, "_backoff", lambda state: 0.01)
    monkeypatch.setattr(timing, "FRAME_AFTER", 0.0)
    monkeypatch.setattr(streamed_answer, "USAGE_TIME", 0.15)


@pytest.fixture
def run(gateway: FakeGateway, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs the task of a case and returns its outcome, and what the gateway has got."""
    case: Case = request.getfixturevalue("case")
    upstream = ScriptedUpstream(case.upstream)
    settings = load(
        {
            "NODE_TYPE": "remote",
            "MODEL_NAME": "m",
            "API_URL": upstream.api_url,
            "API_KEY": API_KEY,
            "PULSAR_URL": "pulsar://127.0.0.1",
            "NAK_DELAY": "0.1",
            **{name: str(value) for name, value in case.ask.get("settings", {}).items()},
        }
    )
    client = Upstream(settings.connect_timeout, settings.read_timeout, lambda seen: None)
    client.set_target(Target(settings.api_url, settings.api_key))
    node = record.Node("node-1", "host-a", "remote", "1.2.3", worker=1)
    services = Services(settings, client, Gateways(5.0, slots=8), OutcomeBuilder(settings, node))

    def run_once() -> tuple[Outcome, Answer]:
        id = uuid.uuid4().hex
        gateway.register(id)
        now, wall = time.monotonic(), time.time()
        seconds = case.ask.get("seconds", SECONDS)
        payload = payload_of(case, id, gateway)
        job = Job(1, 0, payload, wall, wall, now, now + seconds, case.ask.get("redeliveries", 0), None)
        return attempt.run(job, services, Progress()), gateway.answer(id)

    run_once.upstream = upstream  # type: ignore[attr-defined]
    yield run_once
    client.set_target(Target("http://127.0.0.1:9/", None))
    services.gateways.connections.close()
    upstream.close()


def payload_of(case: Case, id: str, gateway: FakeGateway) -> bytes:
    ask = case.ask
    stream = ask.get("stream", False)
    data: dict[str, Any] = {"model": ask.get("model", "m"), "messages": [{"role": "user", "content": "Hello?"}]}
    if "n" in ask:
        data["n"] = ask["n"]
    if ask.get("usage"):
        data["stream_options"] = {"include_usage": True}
    endpoint = gateway.ws_url if stream else gateway.post_url
    return json.dumps({"request_id": id, "stream": stream, "endpoint": endpoint, "data": data}).encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_upstream_of_the_corpus_ends_as_its_file_says(case: Case, run: Any) -> None:
    for _ in range(case.ask.get("tasks", 1)):
        outcome, answer = run()
        check(case, outcome, answer)
    assert len(run.upstream.calls) == case.expect.get("calls", 1)
    assert not run.upstream.mistakes


def check(case: Case, outcome: Outcome, answer: Answer) -> None:
    expect = case.expect
    assert outcome.status == expect["status"], outcome
    assert outcome.decision.value == expect.get("decision", "ack")
    assert (outcome.fault.kind.value if outcome.fault else None) == expect.get("fault")
    made = json.loads(outcome.record)
    if outcome.decision.value == "ack":
        answer.wait()
        assert not answer.faults, answer.faults
        assert (answer.error is None) is ("error" not in expect), answer.error
    else:
        assert not answer.posts + answer.taken_frames  # type: ignore[operator]
    if "text" in expect:
        assert text_of(answer.chunks) == expect["text"]
    if "frames" in expect:
        frames = [frame for frame in answer.taken_frames if frame.has_data]
        assert [frame.data for frame in frames] == list(map(json.loads, expect["frames"]))
        assert all(raw in frame.text for raw, frame in zip(expect["frames"], frames, strict=True)), "byte for byte"
    if "error" in expect:
        assert answer.error is not None
        assert answer.error.items() >= expect["error"].items()
    if "client_error" in expect:
        assert outcome.client_error is not None
        assert outcome.client_error["error"].items() >= expect["client_error"].items()
    if "usage" in expect:
        assert made["usage"].items() >= expect["usage"].items()
    if "usage_source" in expect:
        assert made["usage_source"] == expect["usage_source"]
    if "retry_after" in expect:
        assert outcome.fault is not None
        assert outcome.fault.retry_after == expect["retry_after"]


def test_the_corpus_has_enough_cases_each_with_its_source() -> None:
    assert len(CASES) >= FEWEST
    assert all(case.source.startswith(("https://", "docs", "spec", "research", "here")) for case in CASES)
