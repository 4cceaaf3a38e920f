"""Every shape in which an upstream may answer, through a real node: its client gets what it should (issue 3, 3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devstack.broker import Broker
from tests.faults.testbed import Testbed, open_testbed
from tests.support.upstream import Exchange

CHUNKS = 6
WORDS = "".join(f"wörd {number} " for number in range(CHUNKS))


@pytest.fixture(scope="module")
def shared(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A testbed with a node in it, for the module."""
    with open_testbed(broker, tmp_path_factory.mktemp("testbed")) as one:
        one.start()
        yield one


@pytest.fixture
def here(shared: Testbed) -> Iterator[Testbed]:
    """The same; its log is shown where a test failed."""
    yield shared
    print(shared.node.tail())


def asked_for(testbed: Testbed, id: str) -> list[Exchange]:
    """What upstream was asked for one task."""
    return [one for one in testbed.upstream.requests if one.headers["x-client-request-id"] == id]


# How a stream is written; each brings the same words, and chunks that are upstream's byte for byte.
UNCHANGED: dict[str, dict[str, Any]] = {
    "as_openai_writes_it": {},
    "cr": {"cr": True},
    "crlf": {"crlf": True},
    "comments": {"comments": True},
    "no_space_after_the_colon": {"no_space": True},
    "split_in_the_middle_of_utf8_characters": {"split": True},
    "all_of_that": {"crlf": True, "comments": True, "no_space": True, "split": True},
    "in_one_piece": {"one_write": True},
    "without_done": {"no_done": True},
    "ended_by_close": {"close_delimited": True},
    "ended_by_close_without_done": {"close_delimited": True, "no_done": True},
    "usage_on_the_last_content_chunk": {"usage_on_last": True},
    "without_usage": {"no_usage": True},
    "said_to_be_json": {"content_type": "application/json"},
    "a_connection_that_is_closed_afterwards": {"then_close": True},
}


@pytest.mark.parametrize("wants_usage", [False, True], ids=["usage_not_asked", "usage_asked"])
@pytest.mark.parametrize("shape", UNCHANGED.values(), ids=UNCHANGED.keys())
def test_a_stream_in_any_shape_reaches_its_client_unchanged(
    here: Testbed, shape: dict[str, Any], wants_usage: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    id = here.platform.ask({"chunks": CHUNKS, **shape}, stream=True, **options)
    answer = here.answer(id)
    assert answer.text == WORDS
    (asked,) = asked_for(here, id)
    assert asked.json["stream_options"] == {"include_usage": True}, "usage is asked for whether the client did or not"
    hidden = [event for event in asked.events if '"choices":[]' in event and not wants_usage]
    assert len(hidden) == (not wants_usage and not {"usage_on_last", "no_usage"} & shape.keys())
    assert answer.raw_chunks == [event for event in asked.events if event not in hidden]
    assert (answer.ends, answer.faults) == (1, [])
    record = here.platform.record_of(id)
    assert record["usage_source"] == ("counted" if "no_usage" in shape else "upstream")
    assert record["usage"]["completion_tokens"] == CHUNKS


def test_chunks_over_several_lines_reach_the_client_on_one(here: Testbed) -> None:
    answer = here.answer(here.platform.ask({"pretty": True, "chunks": CHUNKS}, stream=True))
    assert answer.text == WORDS
    assert all("\n" not in one.text for one in answer.frames)


@pytest.mark.parametrize("wants_usage", [False, True], ids=["usage_not_asked", "usage_asked"])
def test_plain_json_to_a_stream_request_becomes_chunks(here: Testbed, wants_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    id = here.platform.ask({"no_stream": True, "chunks": CHUNKS}, stream=True, **options)
    answer = here.answer(id)
    assert answer.text == "wörd " * CHUNKS
    assert {chunk["object"] for chunk in answer.chunks} == {"chat.completion.chunk"}
    assert [chunk for chunk in answer.chunks if "usage" in chunk] == answer.chunks[-1:] * wants_usage
    assert here.platform.record_of(id)["usage"]["completion_tokens"] == CHUNKS


def test_sse_to_a_plain_request_becomes_a_completion(here: Testbed) -> None:
    id = here.platform.ask({"sse_to_plain": True, "chunks": CHUNKS, "split": True})
    answer = here.answer(id)
    assert answer.data["object"] == "chat.completion"
    assert answer.data["choices"][0]["message"] == {"role": "assistant", "content": WORDS}


def test_an_upstream_that_rejects_stream_options_answers_all_the_same(broker: Broker, tmp_path_factory: Any) -> None:
    with open_testbed(broker, tmp_path_factory.mktemp("testbed"), WORKER_PROCESSES=1) as one:
        one.upstream.mode = {"reject_stream_options": True, "chunks": CHUNKS}
        one.start()
        ids = []
        for _ in range(3):
            ids.append(one.platform.ask("hello", stream=True, stream_options={"include_usage": True}))
            assert one.answer(ids[-1]).text == WORDS
        assert [len(asked_for(one, id)) for id in ids] == [2, 1, 1], "it is not remembered"
        assert one.platform.record_of(ids[-1])["usage_source"] == "counted"


def test_a_stream_that_is_cut_ends_with_an_error(here: Testbed) -> None:
    id = here.platform.ask({"no_done": True, "no_finish": True, "gate_chunks": "cut"}, stream=True)
    here.gateway.wait_for_frames(id, 1)
    here.upstream.open_gate("cut")
    answer = here.answer(id)
    assert answer.text.startswith("wörd 0 ")
    assert answer.error is not None
    assert (answer.ends, answer.faults, "error" in json.loads(answer.raw_chunks[-1])) == (1, [], True)
