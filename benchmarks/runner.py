"""Runs scenarios: the parties in turn, several times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import machine
from benchmarks.progress import MeasurementProgress
from benchmarks.scenarios import Scenario
from benchmarks.stand import Stand


@dataclass(frozen=True)
class Measurement:
    """One party in one scenario, once."""

    scenario: str
    party: str
    turn: int  # from 0; measurements of the same turn belong together
    values: tuple[float, ...]  # for each figure of the scenario
    load: float  # of the machine when it began


def plan(scenarios: Sequence[Scenario], repeats: int, quick: bool) -> list[tuple[Scenario, int, str]]:
    """Scenario, turn and party of each measurement, in order: A B A B."""
    return [
        (one, turn, party)
        for one in scenarios
        if one.quick or not quick
        for turn in range(min(repeats, one.most_repeats))
        for party in one.parties
    ]


def run(scenarios: Sequence[Scenario], repeats: int, quick: bool) -> list[Measurement]:
    """Measure all of it; minutes. Says on stderr how far it is."""
    todo = plan(scenarios, repeats, quick)
    progress = MeasurementProgress(len(todo))
    measured = []
    with Stand(progress.tick) as stand:
        for scenario, turn, party in todo:
            progress.begin(f"{scenario.name}: {party}")
            load = machine.load()
            values = scenario.measure(stand, party, scenario.quick if quick else scenario.size)
            measured.append(Measurement(scenario.name, party, turn, values, load))
            said = zip(scenario.figures, values, strict=True)
            progress.end(", ".join(f"{figure.name} {value:.4g} {figure.unit}" for figure, value in said))
    return measured


def result(measured: Sequence[Measurement], began: float, quick: bool) -> dict[str, Any]:
    """All there is to know about a run, for JSON."""
    return {
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "quick": quick,
        "machine": machine.facts(),
        "measurements": [asdict(one) for one in measured],
    }
