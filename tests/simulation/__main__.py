"""python -m tests.simulation --count N [--seed S]: run schedules, shrink and print those that violate a rule."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.run import Result, run
from tests.simulation.schedule import TASKS, UNKIND, make
from tests.simulation.shrink import shrink

SEEDS = Path(__file__).with_name("seeds.txt")  # of schedules that once violated a rule
ROOT = Path(__file__).parents[2]
# The code that decides, whose branches the simulation is to reach.
DECIDERS = [
    "node", "lifecycle", "dispatcher", "deliveries/gateway_waits", "deliveries/queues", "deliveries/settlement",
    "deliveries/claim_waits", "deliveries/refusal_waits", "intake_limit", "ledger", "claims/*", "health/broker_state",
    "health/incidents", "health/readiness", "health/upstream_watch", "workers/pool", "workers/death", "broker/client",
    "broker/intake", "broker/naks", "broker/record_sender", "concurrency/*", "fitness/blame", "fitness/state_machine",
    "fitness/half_open", "fitness/outage", "fitness/*pacing", "fitness/rate_limit", "fitness/refused_task",
]  # fmt: skip


@dataclass
class Tally:
    """What came of many runs."""

    schedules: int = 0
    tasks: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    violated: dict[str, list[Result]] = field(default_factory=dict)  # rule → one result for each seed

    def __str__(self) -> str:
        rate = self.schedules / self.seconds * 60 if self.seconds else 0
        ran = f"{self.schedules} schedules, {self.tasks} tasks in {self.seconds:.1f} s"
        lines = [f"{ran}: {rate:.0f} schedules a minute"]
        lines += [f"{number:9d}  {kind}" for kind, number in self.faults.most_common()]
        for rule, results in self.violated.items():
            seeds = " ".join(str(result.schedule.seed) for result in results[:20])
            lines.append(f"VIOLATED {len(results)} times: {rule}; seeds {seeds}")
        return "\n".join(lines)


def run_all(seeds: Iterable[int], tasks: int = TASKS, only: str = "", stop: bool = False) -> Tally:
    """Run the schedules of the seeds.

    Args:
        seeds: any numbers.
        tasks: how many tasks each publishes.
        only: inject faults of this kind only.
        stop: end at the first that violates a rule.
    """
    tally, began = Tally(), time.monotonic()
    for seed in seeds:
        result = run(make(seed, tasks, only))
        tally.schedules += 1
        tally.tasks += result.tasks
        tally.faults += result.faults
        if result.violation is not None:
            print(f"seed {seed}: {result.violation}", flush=True)
            tally.violated.setdefault(result.violation.rule, []).append(result)
            if stop:
                break
    tally.seconds = time.monotonic() - began
    return tally


def story(result: Result, small: bool = True) -> str:
    """How a rule came to be violated: the schedule, as small as it gets, and what was seen."""
    text = f"seed {result.schedule.seed}: {result.violation}\n"
    if small:
        result = shrink(result)
        text += f"shrunk to {len(result.schedule.steps)} steps: {result.violation}\n"
    return f"{text}{result.schedule}\n" + "\n".join(f"{at:9.4f}  {line}" for at, line in result.story[-40:])


def kept_seeds() -> list[int]:
    """The seeds in seeds.txt; behind a # stands what was found by them."""
    lines = (line.partition("#")[0].strip() for line in SEEDS.read_text(encoding="utf-8").splitlines())
    return [int(line) for line in lines if line]


def measure_coverage(arguments: list[str], folder: Path) -> tuple[float, str]:
    """Run this program again, and note which branches of the deciders are taken.

    Returns:
        The share of branches that were reached, in percent, and what was printed.
    """
    include = ",".join(str(ROOT / "supervisor" / f"{name}.py") for name in DECIDERS)
    data = f"--data-file={folder / 'coverage'}"
    coverage = [sys.executable, "-m", "coverage"]
    ran = subprocess.run(
        [*coverage, "run", "--branch", data, f"--include={include}", "-m", "tests.simulation", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    table = subprocess.run(
        [*coverage, "report", data, "--show-missing"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    report = folder / "coverage.json"
    subprocess.run([*coverage, "json", "-q", data, "-o", str(report)], cwd=ROOT, check=True)
    totals = json.loads(report.read_text(encoding="utf-8"))["totals"]
    percent = 100 * totals["covered_branches"] / totals["num_branches"]
    branches = f"branches reached: {totals['covered_branches']} of {totals['num_branches']}, {percent:.1f} %"
    return percent, f"{ran.stdout}{ran.stderr}\n{table}\n{branches}"


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="schedules to run")
    parser.add_argument("--seed", type=int, default=UNKIND, help="the first seed")
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks in each")
    parser.add_argument("--only", default="", help="inject faults of this kind only")
    parser.add_argument("--keep-going", action="store_true", help="count what is violated, and shrink one of each")
    parser.add_argument("--no-shrink", action="store_true", help="print the whole schedule")
    parser.add_argument("--coverage", action="store_true", help="print the branches of the deciders that were reached")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if given.coverage:
        with tempfile.TemporaryDirectory() as folder:
            print(measure_coverage([word for word in sys.argv[1:] if word != "--coverage"], Path(folder))[1])
        return 0
    gc.set_threshold(100_000)  # there are few reference cycles; looking for them takes a twentieth of the time
    seeds = range(given.seed, given.seed + given.count)
    tally = run_all(seeds, given.tasks, given.only, stop=not given.keep_going)
    for results in tally.violated.values():
        print(story(results[0], not given.no_shrink), "\n")
    print(tally)
    return bool(tally.violated)


if __name__ == "__main__":
    sys.exit(main())
