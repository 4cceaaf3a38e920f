"""What a stream's client was sent, read as the supervisor reads it after the worker was killed at any instant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from supervisor.ledger import KILLS_PER_DEATH
from workernode.call_stats import CallStats
from workernode.net.handover import Handover
from workernode.protocol import SavedStream
from workernode.resume import MOST_RESUMES, Transcript
from workernode.resume_style import ResumeStyle
from workernode.stream_memory import SLOT, TEXT_AT, StreamMemory, StreamSaver


@dataclass(frozen=True)
class Chunk:
    raw: bytes
    finish_reason: str | None = None


def chunk(finish: str | None = None, **delta: Any) -> Chunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return Chunk(json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode(), finish)


class Stream:
    """One stream in slot 1."""

    def __init__(self, memory: StreamMemory, handover: Handover) -> None:
        self.memory = memory
        self.saver = StreamSaver(memory.slot(1), handover)
        self.stats = CallStats(attempts=1, sent_at=1.0, first_at=2.0)
        self.start()

    def start(self) -> None:
        self.transcript = Transcript({}, ResumeStyle.LLAMACPP)
        self.saver.start()

    def prepare(self, *chunks: Chunk) -> bool:
        self.transcript.pass_on(chunks)
        return self.saver.prepare(self.transcript, self.transcript.unsaved(), self.stats)

    def send(self, *chunks: Chunk) -> None:
        assert self.prepare(*chunks)
        self.saver.begin(100, is_exact=True)
        self.saver.done()

    def read(self, left: int = 0) -> SavedStream | None:
        return self.memory.slot(1).read(left)

    def text(self, left: int = 0) -> str | None:
        saved = self.read(left)
        return None if saved is None else saved.text


@pytest.fixture
def stream() -> Iterator[Stream]:
    ends = os.pipe()
    memory = StreamMemory(2)
    yield Stream(memory, Handover(*ends))
    memory.close()
    for end in ends:
        os.close(end)


def test_what_was_sent_can_be_read(stream: Stream) -> None:
    stream.send(chunk(role="assistant", content=""), chunk(content="wört "))
    stream.send(chunk(content="🌊"))
    saved = stream.read()
    assert saved is not None
    assert (saved.text, saved.tokens, saved.has_role, saved.is_finished, saved.resumes) == (
        "wört 🌊",
        2,
        True,
        False,
        0,
    )
    assert saved.members == {"id": "x", "model": "m"}
    assert (saved.asked.attempts, saved.asked.first_at, saved.asked.text_chunks) == (1, 2.0, 2)


@pytest.mark.parametrize(
    ("is_exact", "left", "text"),
    [
        (True, 0, "ab"),  # the kernel took it
        (True, 100, "a"),  # it is still in the pipe
        (True, 40, None),  # a part of it left
        (False, 0, None),  # it left the usual way, or did not
    ],
)
def test_of_a_chunk_that_was_leaving_the_pipe_shows_whether_it_left(
    stream: Stream, is_exact: bool, left: int, text: str | None
) -> None:
    stream.send(chunk(content="a"))
    assert stream.prepare(chunk(content="b"))
    assert stream.text(left) == "a"  # it was not about to leave yet
    stream.saver.begin(100, is_exact=is_exact)
    assert stream.text(left) == text


def test_a_chunk_without_text_counts_as_well(stream: Stream) -> None:
    stream.send(chunk(content="a"))
    assert stream.prepare(chunk("stop"))
    stream.saver.begin(100, is_exact=False)
    assert stream.read() is None
    stream.saver.done()
    saved = stream.read()
    assert saved is not None
    assert saved.is_finished


def test_nothing_is_read_of_a_stream_that_is_no_plain_text(stream: Stream) -> None:
    stream.send(chunk(content="a"))
    assert not stream.prepare(chunk(reasoning_content="hm"))
    assert not stream.prepare(chunk(content="b"))
    assert stream.read() is None


def test_nothing_is_read_of_a_stream_that_is_too_long(stream: Stream) -> None:
    stream.send(chunk(content="a" * (SLOT - TEXT_AT)))
    assert stream.prepare(chunk(content=""))
    assert not stream.prepare(chunk(content="b"))
    assert stream.read() is None


def test_nothing_is_read_of_a_stream_whose_head_is_too_large(stream: Stream) -> None:
    stream.stats.model = "m" * TEXT_AT
    assert not stream.prepare(chunk(content="a"))
    assert stream.read() is None


def test_half_a_character_cannot_be_continued(stream: Stream) -> None:
    stream.send(chunk(content="\ud83c"))
    assert stream.read() is None


@pytest.mark.parametrize("way", ["stop", "forget", "start"])
def test_nothing_is_read_of_a_stream_that_ends_or_of_the_one_before(stream: Stream, way: str) -> None:
    stream.send(chunk(content="a"))
    {"stop": stream.saver.stop, "forget": stream.memory.slot(1).forget, "start": stream.start}[way]()
    assert stream.read() is None


def test_the_next_stream_of_a_slot_has_nothing_of_the_one_before(stream: Stream) -> None:
    stream.send(chunk(content="long before"))
    stream.start()
    stream.send(chunk(content="new"))
    assert stream.text() == "new"


def test_a_later_part_keeps_the_text_and_has_its_own_head(stream: Stream) -> None:
    stream.send(chunk(content="a"))
    stream.stats.part_broke("stream_cut", 3.0, 1)
    stream.transcript.go_on()
    assert stream.prepare()
    stream.saver.done()
    stream.send(chunk(content="b"))
    saved = stream.read()
    assert saved is not None
    assert (saved.text, saved.tokens, saved.resumes, saved.asked.text_chunks) == ("ab", 2, 1, 1)
    assert [part.reason for part in saved.asked.broken] == ["stream_cut"]


def test_all_parts_that_a_stream_can_have_fit(stream: Stream) -> None:
    """Of kills from outside every fourth counts, so that the twelfth ends a stream."""
    for part in range(KILLS_PER_DEATH * (MOST_RESUMES + 1)):
        stream.send(chunk(content="word "))
        stream.stats.model = "organisation/a-model-with-a-name-as-long-as-they-come-Q4_K_M.gguf"
        saved = stream.read()
        assert saved is not None
        assert len(saved.asked.broken) == part
        stream.stats.part_broke("worker_died", 12345.678901, saved.tokens)
        stream.transcript.go_on(counts=False)


def test_slots_do_not_see_each_other(stream: Stream) -> None:
    stream.send(chunk(content="a"))
    assert stream.memory.slot(0).read(0) is None


def test_a_system_without_such_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="memfd"):
        StreamMemory(1)
