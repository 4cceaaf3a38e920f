"""Measurements → a table in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from benchmarks.runner import Measurement
from benchmarks.scenarios import SCENARIOS, Against, Figure, Scenario
from benchmarks.testbed import BASELINE, DIRECT, GO, LITELLM, NODE

Turns = Mapping[int, float]  # the value of each turn
TARGETS = (DIRECT, BASELINE, GO, LITELLM, NODE)


def turns(measured: Iterable[Measurement], scenario: str, target: str, figure: int) -> dict[int, float]:
    """Return one figure of one target by turn; empty where it was not measured."""
    return {one.turn: one.values[figure] for one in measured if (one.scenario, one.target) == (scenario, target)}


def compared(ours: Turns, theirs: Turns, against: Against) -> list[float]:
    """Return our figures compared with theirs, each with the figure of the same turn."""
    both = sorted(ours.keys() & theirs.keys())
    if against is Against.DIFFERENCE:
        return [ours[turn] - theirs[turn] for turn in both]
    return [ours[turn] / theirs[turn] for turn in both if theirs[turn]]


def table(measured: Sequence[Measurement]) -> str:
    """Return all figures as a Markdown table: medians, and for the comparisons the range of the turns. A target that
    was not measured has no column.
    """
    targets = [one for one in TARGETS if one == NODE or any(each.target == one for each in measured)]
    head = ["figure", *targets, *(f"node against {one}" for one in targets if one != NODE)]
    rows = [_row(measured, one, number, targets) for one in SCENARIOS for number in range(len(one.figures))]
    return markdown(head, [row for row in rows if row])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(measured: Sequence[Measurement], scenario: Scenario, number: int, targets: Sequence[str]) -> list[str]:
    """Return one row; empty if the scenario was not run."""
    figure = scenario.figures[number]
    values = {target: turns(measured, scenario.name, target, number) for target in targets}
    if not values[NODE]:
        return []
    cells = [_number(median(one.values())) if one else "" for one in values.values()]
    others = [values[target] for target in targets if target != NODE]
    against = [_comparison(compared(values[NODE], other, figure.against), figure) for other in others]
    return [f"{figure.name}, {figure.unit}" if figure.unit != "×" else figure.name, *cells, *against]


def _comparison(values: Sequence[float], figure: Figure) -> str:
    if not values:
        return ""
    low, middle, high = min(values), median(values), max(values)
    if figure.against is Against.DIFFERENCE:
        return f"{middle:+.2f} {figure.unit} ({low:+.2f} … {high:+.2f})"
    return f"{middle:.2f} ({low:.2f} … {high:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
