"""What the bytes of an answer amount to: the same however the network cuts them, and whole only with every choice."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.corpus import cases, text_of
from workernode.call_stats import CallStats
from workernode.errors import UpstreamFault
from workernode.protocol import FaultKind
from workernode.upstream.answer import StreamReader, looks_streamed, read_completion
from workernode.upstream.chunks import Chunk

STREAMS = [
    "".join([reply.body] if isinstance(reply.body, str) else reply.body).encode()
    for case in cases()
    for reply in case.upstream
    if looks_streamed("".join([reply.body] if isinstance(reply.body, str) else reply.body).encode())
]


def event(finish: str | None = None, index: int = 0, text: str = "a") -> str:
    chunk = {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    return f"data: {json.dumps(chunk)}\n\n"


def read(*pieces: bytes, choices: int = 1, close: bool = True) -> tuple[list[Chunk], StreamReader]:
    reader = StreamReader(CallStats(), choices, with_usage=True)
    chunks = [chunk for piece in pieces for chunk in reader.feed(piece)]
    return chunks + (reader.close() if close else []), reader


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 3000), max_size=8))
def test_a_stream_is_read_alike_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert read(*pieces)[0] == read(stream)[0]


WHOLE: dict[str, tuple[list[str], int, bool]] = {
    "nothing": ([], 1, False),
    "no_finish": ([event()], 1, False),
    "empty_finish": ([event("")], 1, False),
    "finish": ([event(), event("stop")], 1, True),
    "two_choices": ([event("stop"), event("length", 1)], 2, True),
    "one_of_two_that_were_seen": ([event("stop"), event(None, 1)], 2, False),
    "text_after_the_finish": ([event("stop"), event(None)], 1, True),
}


@pytest.mark.parametrize(("events", "choices", "whole"), WHOLE.values(), ids=WHOLE.keys())
def test_a_stream_is_whole_when_each_choice_that_was_seen_has_finished(
    events: list[str], choices: int, whole: bool
) -> None:
    chunks, reader = read("".join(events).encode(), choices=choices)
    assert reader.is_whole is whole
    assert (chunks[-1].error is None if chunks else False) is whole


@pytest.mark.parametrize(("choices", "early"), [(1, True), (2, False)])
def test_a_stream_may_end_early_when_as_many_choices_finished_as_were_asked_for(choices: int, early: bool) -> None:
    _, reader = read((event() + event("stop", text="")).encode(), choices=choices, close=False)
    assert reader.may_end_early is early


@pytest.mark.parametrize(
    "events",
    [
        [event("stop")],
        [event("stop", text="")],
        [event(), event("stop"), event("stop")],
        [event(), event("stop", text=""), event()],
    ],
    ids=["with_the_first_text", "before_the_text", "with_each_text", "before_more_text"],
)
def test_a_finish_that_more_text_may_follow_does_not_end_a_stream_early(events: list[str]) -> None:
    _, reader = read("".join(events).encode(), close=False)
    assert reader.is_whole
    assert not reader.may_end_early


@pytest.mark.parametrize(
    "before",
    [[event(text="He"), event(text="llo")], [event(text="Hello"), event("stop", text="")]],
    ids=["without_a_finish", "behind_the_finish"],
)
def test_a_completion_behind_the_text_of_a_stream_does_not_repeat_it(before: list[str]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    completion = {"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 7}}
    chunks, _ = read("".join([*before, f"data: {json.dumps(completion)}\n\n"]).encode())
    assert text_of([json.loads(chunk.raw) for chunk in chunks]) == "Hello"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].usage == {"total_tokens": 7}


def test_usage_before_the_finish_is_not_the_last() -> None:
    running = {"choices": [{"index": 0, "delta": {}, "finish_reason": None}], "usage": {"total_tokens": 1}}
    _, reader = read(f"data: {json.dumps(running)}\n\n{event('stop')}".encode(), close=False)
    assert not reader.has_usage
    reader.feed(b'data: {"choices":[],"usage":{"total_tokens":2}}\n\n')
    assert reader.has_usage


def test_nothing_is_read_after_the_end() -> None:
    chunks, reader = read((event("stop") + "data: [DONE]\n\n" + event()).encode())
    assert len(chunks) == 1
    assert reader.has_ended


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, {"choices": {}}, {"id": "x"}])
def test_json_without_choices_is_no_completion(body: dict[str, Any]) -> None:
    with pytest.raises(UpstreamFault) as caught:
        read_completion(json.dumps(body).encode(), CallStats(), is_own_model=True)
    assert (caught.value.kind, caught.value.code) == (FaultKind.PASSING, "bad_answer")


@pytest.mark.parametrize(
    "end",
    [
        event("stop"),
        '{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}',
    ],
    ids=["stream", "json"],
)
def test_any_number_of_comments_may_stand_before_a_plain_answer(end: str) -> None:
    """Once the time doubled with each comment: 40 of them kept a worker and all of its tasks for days."""
    raw, answer = read_completion((": PROCESSING\n\n" * 20_000 + end).encode(), CallStats(), is_own_model=True)
    assert answer["choices"][0]["message"]["content"] == "a"
    assert json.loads(raw) == answer


def test_comments_alone_are_no_completion() -> None:
    with pytest.raises(UpstreamFault):
        read_completion(b": PROCESSING\n\n" * 20_000, CallStats(), is_own_model=True)


@given(st.binary(max_size=200))
def test_any_body_is_a_completion_or_a_fault(raw: bytes) -> None:
    with contextlib.suppress(UpstreamFault):
        read_completion(raw, CallStats(), is_own_model=True)


@given(st.lists(st.binary(max_size=60) | st.sampled_from(STREAMS), max_size=6))
def test_any_stream_gives_chunks_of_which_only_the_last_may_be_an_error(pieces: list[bytes]) -> None:
    chunks, reader = read(*pieces)
    assert reader.has_ended
    assert all(chunk.error is None for chunk in chunks[:-1])
