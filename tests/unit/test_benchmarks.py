"""The benchmarks' pure parts: a figure that is computed wrongly would be believed."""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode

from benchmarks import conversations, figures, litellm, local, report
from benchmarks.__main__ import choose, find_parties
from benchmarks.figures import BenchmarkError, Sample
from benchmarks.gateway import Frames, QuickGateway
from benchmarks.runner import Measurement, plan
from benchmarks.scenarios import SCENARIOS, Against
from benchmarks.testbed import BASELINE, DIRECT, GO, LITELLM, NODE, Parties
from benchmarks.upstream import completion, events

SAMPLES = [Sample(10.0, [10.5, 11.0, 11.1]), Sample(10.2, [10.4, 12.0]), Sample(11.0, [11.6])]


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 5), (0.51, 6), (0.99, 10), (1, 10)])
def test_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert figures.percentile([7, 3, 1, 10, 2, 9, 4, 8, 6, 5], share) == value


def test_percentile_of_nothing_is_no_figure() -> None:
    with pytest.raises(BenchmarkError):
        figures.percentile([], 0.5)


def test_rates_count_from_the_first_question_to_the_last_answer() -> None:
    assert figures.per_s(SAMPLES) == pytest.approx(3 / 2)
    assert figures.chunks_per_s(SAMPLES) == pytest.approx(6 / 2)


def test_times_are_in_milliseconds() -> None:
    assert figures.answer_ms(SAMPLES) == pytest.approx(1100)
    assert figures.first_ms(SAMPLES) == pytest.approx(500)
    assert figures.gap_ms(SAMPLES) == pytest.approx(1600)


def test_chunks_are_counted_in_a_time_without_its_end() -> None:
    assert figures.chunks_in(SAMPLES, 10.4, 11.1) == 3


def test_frames_are_read_in_whatever_pieces_they_come() -> None:
    sent = [(Opcode.TEXT, b"short"), (Opcode.TEXT, b"x" * 300), (Opcode.PING, b""), (Opcode.TEXT, b"y" * 70_000)]
    wire = b"".join(Frame(opcode, payload).serialize(mask=True) for opcode, payload in sent)
    for step in (1, 7, len(wire)):
        seen: list[tuple[int, bytes]] = []

        def note(opcode: int, payload: bytes, at: float, seen: list[tuple[int, bytes]] = seen) -> None:
            seen.append((opcode, payload))

        reader = Frames(note)
        for start in range(0, len(wire), step):
            reader.feed(wire[start : start + step])
        assert seen == sent


def test_gateway_tells_an_answer_with_its_chunks_and_an_error_as_one() -> None:
    reports: list[tuple[str, bool, bytes] | None] = []
    gateway = QuickGateway(reports.append)
    try:
        for text in (
            b'{"request_id":"a","end":false,"data":{"choices":[]}}',
            b'{"request_id":"b","end":false,"data":{"error":{}}}',
            b'{"request_id":"b","end":true}',
            b'{"request_id":"a","end":true,"data":{"choices":[]}}',
        ):
            gateway.post(gateway._frame, None, Opcode.TEXT, text, 1.5)
    finally:
        gateway.close()
    assert reports == [("b", False, struct.pack("d", 1.5)), ("a", True, array("d", [1.5, 1.5]).tobytes())]


def test_upstream_sends_role_tokens_end_and_usage_where_it_was_asked_for() -> None:
    without, asked = list(events(3, usage=0)), list(events(3, usage=1))
    assert (len(without), without[-1]) == (6, "[DONE]")
    assert [one for one in asked if one not in without] == [asked[-2]]
    assert '"completion_tokens":3' in asked[-2]
    assert b'"completion_tokens":3' in completion(3)


def test_parties_take_turns() -> None:
    plain, once = (next(one for one in SCENARIOS if one.name == name) for name in ("plain", "limit"))
    order = [(one.name, turn, target) for one, turn, target in plan([plain, once], 2, False, Parties())]
    assert order == [
        ("plain", 0, DIRECT), ("plain", 0, BASELINE), ("plain", 0, NODE),
        ("plain", 1, DIRECT), ("plain", 1, BASELINE), ("plain", 1, NODE),
        ("limit", 0, NODE),
    ]  # fmt: skip
    assert not plan([once], 2, True, Parties())


def test_a_scenario_is_left_out_if_the_party_to_compare_with_is_missing() -> None:
    beside_go = [one for one in SCENARIOS if GO in one.targets]
    beside_litellm = [one for one in SCENARIOS if LITELLM in one.targets]
    assert not plan([*beside_go, *beside_litellm], 1, False, Parties())
    both = plan([*beside_go, *beside_litellm], 1, False, Parties(lab=Path("lab"), litellm=Path("litellm")))
    assert len(both) == 2 * len([*beside_go, *beside_litellm])


def test_the_lab_is_left_out_if_one_of_its_programs_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside_go = [one for one in SCENARIOS if GO in one.targets]
    assert find_parties(beside_go, None) == Parties()
    for name in ("upstream", "labgw"):
        (tmp_path / name).touch()
    assert find_parties(beside_go, tmp_path) == Parties()
    assert "has no refnode" in capsys.readouterr().out
    (tmp_path / "refnode").touch()
    assert find_parties(beside_go, tmp_path) == Parties(lab=tmp_path.resolve())


def test_the_time_added_is_what_the_median_answer_takes_longer_than_upstream() -> None:
    samples = [Sample(0.0, [moment]) for moment in (0.5, 0.024, 0.023)]
    assert litellm.added_ms(samples) == pytest.approx(4.0)


def test_lab_stands_for_all_that_is_compared_with_programs_that_are_not_everywhere_and_for_large_tasks() -> None:
    names = [one.name for one in choose(["lab", "plain"])]
    assert names == ["plain", "large", *(one.name for one in SCENARIOS if GO in one.targets), "litellm"]
    assert choose([]) == list(SCENARIOS)


def test_names_of_scenarios_are_unique() -> None:
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS)


def test_only_measurements_of_one_turn_are_compared() -> None:
    assert report.compared({0: 10.0, 1: 30.0, 2: 5.0}, {1: 60.0, 0: 10.0}, Against.RATIO) == [1.0, 0.5]
    assert report.compared({0: 10.0, 1: 30.0}, {1: 60.0, 0: 9.0}, Against.DIFFERENCE) == [1.0, -30.0]


def test_table_has_medians_ranges_and_what_was_run_only() -> None:
    measured = [
        *(Measurement("plain", target, turn, (value,), 0.5)
          for target, values in {DIRECT: (2000, 1000, 4000), NODE: (500, 500, 500)}.items()
          for turn, value in enumerate(values)),
        Measurement("added", DIRECT, 0, (20.5,), 0.5),
        Measurement("added", NODE, 0, (22.0,), 0.5),
    ]  # fmt: skip
    assert report.table(measured).splitlines()[2:] == [
        "| plain tasks, 1/s | 2,000 | 500 | 0.25 (0.12 … 0.50) |",
        "| plain answer, ms | 20.5 | 22 | +1.50 ms (+1.50 … +1.50) |",
    ]


def test_moves_are_counted_after_the_time_to_get_there() -> None:
    caps = [(1.0, 8), (30.0, 4), (60.0, 8), (90.0, 6), (120.0, 6), (180.0, 8)]
    assert local.moves_a_minute(caps, 60) == pytest.approx(1.0)
    assert local.moves_a_minute(caps, 500) == 0


def test_local_figures_leave_the_warming_up_out() -> None:
    trace = local.Trace(4, 0.5)
    samples = [Sample(100.0, [100.5 + 0.5 * number for number in range(39)])]
    local.fill(trace, samples, start=100.0, warm_s=10, seconds=20)
    assert trace.tokens_per_s == pytest.approx(2.0)
    assert trace.first_ms == pytest.approx(500)
    assert trace.rates[0] == (10, 1.9)


def test_each_turn_of_a_conversation_repeats_the_one_before_and_adds_a_question() -> None:
    for turn in range(1, conversations.TURNS + 1):
        said = conversations.messages(3, turn)
        assert [one["role"] for one in said] == ["user", "assistant"] * (turn - 1) + ["user"]
        assert said[: 2 * turn - 3] == conversations.messages(3, turn - 1)[: 2 * turn - 3]
    assert conversations.messages(3, 1) != conversations.messages(4, 1)


def test_the_first_token_is_compared_with_the_best_possible() -> None:
    found = [conversations.Found("best", 16, 200.0, 0.9), conversations.Found("node", 16, 250.0, 0.87)]
    assert "| node | 16 | 250 | 1.25 | 87% |" in conversations.table(found)
