"""One case of each kind of the corpus through a whole node with a real broker: what its client sees in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.corpus import Case, ScriptedUpstream, cases, text_of
from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.platform import Platform

CASES = [case for case in cases() if case.whole_node]
TIMEOUT = 30.0  # seconds
MOST_CALLS = 8  # of a refusal that nobody else helps to judge: the task is asked again a few times, never in a loop


@pytest.fixture
def scripted(request: pytest.FixtureRequest) -> Iterator[ScriptedUpstream]:
    case: Case = request.getfixturevalue("case")
    upstream = ScriptedUpstream(case.upstream)
    yield upstream
    upstream.close()
    assert not upstream.mistakes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_client_gets_what_the_corpus_says(
    case: Case, scripted: ScriptedUpstream, node: Callable[..., Node], platform: Platform, gateway: FakeGateway
) -> None:
    settings = {name: str(value) for name, value in case.ask.get("settings", {}).items()}
    only = node(ready=False, API_URL=scripted.api_url, MAX_REDELIVERIES=1, WORKER_PROCESSES=1, **settings)
    chat = {"stream_options": {"include_usage": True}} if case.ask.get("usage") else {}
    expect = case.expect
    for _ in range(case.ask.get("tasks", 1)):
        id = platform.ask("Hello?", stream=case.ask.get("stream", False), **chat)
        answer = gateway.answer(id).wait(TIMEOUT)
        assert not answer.faults, answer.faults
        platform.wait_balanced([id], TIMEOUT)
        record = platform.records_of(id)[-1]
        assert record["outcome"]["decision"] == "ack"
        if expect.get("decision") == "nak":
            assert answer.error is not None
            assert len(scripted.calls) <= MOST_CALLS
            continue
        assert record["outcome"]["status"] == expect["status"]
        assert (answer.error is None) is ("error" not in expect), answer.error
        if "text" in expect:
            assert text_of(answer.chunks) == expect["text"]
        if "error" in expect:
            assert answer.error is not None
            assert answer.error.items() >= expect["error"].items()
        if "usage" in expect:
            assert record["usage"].items() >= expect["usage"].items()
    if expect.get("decision") != "nak":
        assert len(scripted.calls) == expect.get("calls", 1)
    only.sigterm()
