"""python -m tests.simulation --count N [--seed S]: run schedules, shrink and print those that violate a rule."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.simulation.run import Result, run
from tests.simulation.schedule import TASKS, make
from tests.simulation.shrink import shrink


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="schedules to run")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks in each")
    parser.add_argument("--only", default="", help="inject faults of this kind only")
    parser.add_argument("--keep-going", action="store_true", help="count what is violated, and shrink one of each")
    parser.add_argument("--no-shrink", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    faults: Counter[str] = Counter()
    violated: dict[str, list[int]] = {}
    tasks = 0
    for seed in range(given.seed, given.seed + given.count):
        result = run(make(seed, given.tasks, given.only))
        faults += result.faults
        tasks += result.tasks
        if result.violation is not None:
            seeds = violated.setdefault(result.violation.rule, [])
            seeds.append(seed)
            if len(seeds) == 1:
                show(result, not given.no_shrink)
            if not given.keep_going:
                break
    took = time.monotonic() - began
    count = seed - given.seed + 1
    print(f"{count} schedules, {tasks} tasks in {took:.1f} s: {count / took * 60:.0f} schedules a minute")
    for kind, number in faults.most_common():
        print(f"{number:9d}  {kind}")
    for rule, seeds in violated.items():
        print(f"VIOLATED {len(seeds)} times: {rule}; seeds {' '.join(map(str, seeds[:20]))}")
    return bool(violated)


def show(result: Result, small: bool) -> None:
    """Print how a rule came to be violated."""
    print(f"seed {result.schedule.seed}: {result.violation}")
    if small:
        result = shrink(result)
        print(f"shrunk to {len(result.schedule.steps)} steps: {result.violation}")
    print(result.schedule)
    for at, line in result.story[-40:]:
        print(f"{at:9.4f}  {line}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
