"""Runs scenarios: each target in turn, several times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import machine
from benchmarks.figures import BenchmarkError
from benchmarks.progress import MeasurementProgress
from benchmarks.scenarios import Scenario
from benchmarks.testbed import NODE, Parties, Testbed


@dataclass(frozen=True)
class Measurement:
    """The figures of one target in one scenario, measured once."""

    scenario: str
    target: str
    turn: int  # from 0; measurements of the same turn belong together
    values: tuple[float, ...]  # for each figure of the scenario
    load: float  # of the machine when it began


def plan(scenarios: Sequence[Scenario], repeats: int, quick: bool, parties: Parties) -> list[tuple[Scenario, int, str]]:
    """Return scenario, turn and target of each measurement, in order: A B A B. Without one of the parties that it
    compares, a scenario of the lab or of LiteLLM is left out.
    """
    return [
        (one, turn, target)
        for one in scenarios
        if (one.quick or not quick) and all(parties.has(target) for target in one.targets)
        for turn in range(min(repeats, one.most_repeats))
        for target in one.targets
    ]


def run(scenarios: Sequence[Scenario], repeats: int, quick: bool, parties: Parties) -> list[Measurement]:
    """Measure all scenarios, which takes minutes, and show the progress on stderr."""
    todo = plan(scenarios, repeats, quick, parties)
    progress = MeasurementProgress(len(todo))
    measured = []
    with Testbed(progress.tick, parties) as testbed:
        for scenario, turn, target in todo:
            progress.begin(f"{scenario.name}: {target}")
            load = machine.load()
            try:
                values = scenario.measure(testbed, target, scenario.quick if quick else scenario.size)
            except BenchmarkError as error:
                if target == NODE:
                    raise
                progress.end(f"left out: {error}")  # another party's fault must not cost the other figures
                continue
            measured.append(Measurement(scenario.name, target, turn, values, load))
            pairs = zip(scenario.figures, values, strict=True)
            progress.end(", ".join(f"{figure.name} {value:.4g} {figure.unit}" for figure, value in pairs))
    return measured


def result(measured: Sequence[Measurement], began: float, quick: bool) -> dict[str, Any]:
    """Return the run as a JSON object: when, on which machine, and all measurements."""
    return {
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "quick": quick,
        "machine": machine.facts(),
        "measurements": [asdict(one) for one in measured],
    }
