"""What the client of one stream was sent, and how a later part reads as one stream with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from workernode.resume import Opening, Transcript
from workernode.resume.transcript import is_encodable
from workernode.resume_style import ResumeStyle

LONG = "a text of more than sixteen characters"


@dataclass(frozen=True)
class Chunk:
    raw: bytes
    finish_reason: str | None = None


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, part: int = 1, **members: Any) -> Chunk:
    head = {"id": f"id-{part}", "created": part, "model": f"m-{part}"}
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return Chunk(json.dumps({**head, "choices": choices, **members}).encode(), finish)


def transcript(style: ResumeStyle = ResumeStyle.LLAMACPP, **data: Any) -> Transcript:
    return Transcript({"messages": [], **data}, style)


def words(*texts: str, part: int = 1) -> list[Chunk]:
    return [chunk({"content": text}, part=part) for text in texts]


def test_the_first_part_is_passed_on_byte_for_byte() -> None:
    one = transcript()
    chunks = [chunk({"role": "assistant", "content": ""}), *words("a", "b")]
    assert one.pass_on(chunks) == [each.raw for each in chunks]
    assert (one.text, one.tokens, one.opening) == (
        "ab", 2, Opening({"id": "id-1", "created": 1, "model": "m-1"}, has_role=True),
    )  # fmt: skip


def test_a_later_part_has_the_opening_of_the_first_and_no_role() -> None:
    one = transcript()
    one.pass_on([chunk({"role": "assistant", "content": ""}), *words("a")])
    one.go_on()
    later = [
        chunk({"role": "assistant", "content": None}, part=2),
        chunk({"role": "assistant", "content": "b"}, part=2),
        chunk({}, "stop", part=2),
    ]
    made = [json.loads(raw) for raw in one.pass_on(later)]
    assert [each["choices"][0]["delta"] for each in made] == [{"content": "b"}, {}]
    assert {(each["id"], each["created"], each["model"]) for each in made} == {("id-1", 1, "m-1")}
    assert (one.text, one.tokens, one.is_finished, one.can_go_on) == ("ab", 2, True, False)


def test_a_role_that_the_client_has_not_got_comes_with_a_later_part() -> None:
    one = transcript()
    one.pass_on([chunk(None)])
    one.go_on()
    (raw,) = one.pass_on([chunk({"role": "assistant", "content": ""}, part=2)])
    assert json.loads(raw)["choices"][0]["delta"] == {"role": "assistant"}


def test_usage_in_a_later_part_counts_the_tokens_of_all() -> None:
    one = transcript()
    one.pass_on(words("a", "b"))
    one.go_on()
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    (raw,) = one.pass_on([chunk(None, part=2, usage=usage)])
    assert json.loads(raw)["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}


def test_upstreams_own_count_of_tokens_rules_over_the_number_of_chunks() -> None:
    one = transcript()
    one.pass_on([chunk({"content": "four tokens"}, usage={"completion_tokens": 4})])
    assert one.tokens == 4


def test_chunks_wait_while_they_may_begin_a_stop_sequence() -> None:
    one = transcript(stop=["<end>"])
    chunks = words("a", " <", "e", "f")
    assert [one.pass_on([each]) for each in chunks] == [[chunks[0].raw], [], [], [each.raw for each in chunks[1:]]]
    assert one.text == "a <ef"


def test_what_was_held_back_comes_again_with_the_next_part() -> None:
    one = transcript(stop="<end>")
    one.pass_on(words("a", " <", "e"))
    one.go_on()
    assert (one.text, one.tokens) == ("a", 1)
    one.pass_on(words(" <", "b", part=2))
    assert one.text == "a <b"


def test_the_end_of_an_answer_holds_nothing_back() -> None:
    one = transcript(stop="<end>")
    assert len(one.pass_on([*words("<"), chunk({}, "stop")])) == 2


def test_usage_behind_a_text_that_ends_like_the_beginning_of_a_stop_sequence_is_passed_on() -> None:
    one = transcript(stop="\n\n")
    chunks = [*words("a\n"), chunk({}, "length"), chunk(None, usage={"completion_tokens": 1})]
    assert one.pass_on(chunks) == [each.raw for each in chunks]


def test_what_is_held_back_leaves_at_the_end_of_an_answer_that_has_no_finish_reason() -> None:
    one = transcript(stop="\n\n")
    chunks = words("a", "\n")
    assert [*one.pass_on(chunks), *one.rest()] == [each.raw for each in chunks]
    assert (one.text, one.rest()) == ("a\n", [])


def test_a_later_part_is_passed_on_where_its_content_is_no_text_or_it_has_several_choices() -> None:
    one = transcript()
    one.pass_on(words("a"))
    one.go_on()
    parts = [{"type": "text", "text": "b"}]
    both = [{"index": 0, "delta": {"content": text}} for text in "cd"]
    made = one.pass_on([chunk({"content": parts}, part=2), chunk(None, part=2, choices=both)])
    assert [json.loads(raw)["choices"] for raw in made] == [
        [{"index": 0, "delta": {"content": parts}, "finish_reason": None}], both,
    ]  # fmt: skip
    assert not one.can_go_on


def test_a_repeated_text_is_taken_out_where_the_style_may_repeat_it() -> None:
    one = transcript(ResumeStyle.PREFIX)
    one.pass_on([chunk({"role": "assistant", "content": ""}), *words(LONG)])
    one.go_on()
    one.pass_on(words(LONG, " goes on", part=2))
    assert one.text == f"{LONG} goes on"


@pytest.mark.parametrize(
    ("delta", "members"),
    [
        ({"reasoning_content": "hm"}, {}),
        ({"reasoning": "hm"}, {}),
        ({"tool_calls": [{}]}, {}),
        ({"refusal": "no"}, {}),
        ({"content": [{"type": "text", "text": "a part of Mistral's"}]}, {}),
        ({"content": 5}, {}),
        ({"content": "<think>hm"}, {}),
        ({"content": "half \ufffd"}, {}),
        ({"content": "a"}, {"choices": [{"index": 1, "delta": {"content": "a"}}]}),
        ({"content": "a"}, {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [1]}}]}),
    ],
    ids=str,
)
def test_what_is_no_plain_text_does_not_go_on(delta: dict[str, Any], members: dict[str, Any]) -> None:
    one = transcript()
    assert one.can_go_on
    one.pass_on([chunk(delta, **members)])
    assert not one.can_go_on


def test_half_a_surrogate_pair_does_not_go_on() -> None:
    one = transcript()
    one.pass_on(words("half \ud83c"))
    assert not one.can_go_on


def test_a_short_text_does_not_go_on_where_it_may_be_repeated() -> None:
    one = transcript(ResumeStyle.PREFIX)
    one.pass_on(words("short"))
    assert not one.can_go_on
    one.pass_on(words(LONG))
    assert one.can_go_on


def test_a_stream_goes_on_twice_at_most() -> None:
    one = transcript()
    one.go_on()
    assert one.can_go_on
    one.go_on()
    assert not one.can_go_on


def test_a_time_that_does_not_count_leaves_both_others() -> None:
    one = transcript()
    one.restore(Opening({}), "so far", 2, 2)
    assert (one.can_go_on, one.is_continuable) == (False, True)
    one.go_on(counts=False)
    assert (one.part, one.resumes) == (1, 2)


def test_another_worker_goes_on_with_what_was_passed_on() -> None:
    one = transcript()
    one.restore(Opening({"id": "id-1"}, has_role=True), "so far", 2, 1)
    one.go_on(counts=False)
    (raw,) = one.pass_on([chunk({"role": "assistant", "content": " so good"}, part=2)])
    assert (json.loads(raw)["id"], one.text, one.tokens, one.resumes) == ("id-1", "so far so good", 3, 1)


def test_the_chunk_that_ends_a_text_at_its_limit_has_the_opening_of_the_first() -> None:
    one = transcript()
    one.pass_on(words("a"))
    made = json.loads(one.ending())
    assert (made["id"], made["choices"]) == ("id-1", [{"index": 0, "delta": {}, "finish_reason": "length"}])
    assert one.is_finished


def test_halves_of_a_surrogate_pair_are_a_whole_together() -> None:
    assert is_encodable("\ud83c\udf0a")
    assert not is_encodable("\ud83c")
