"""`python -m benchmarks`: compares the node with a baseline node and with no node at all (docs/performance.md)."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import conversations, lab, litellm, local, machine, plot, report, runner
from benchmarks.figures import BenchmarkError
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.testbed import GO, LITELLM, RESULTS, Parties
from devstack.terminal import StackError

LOCAL = "local"
LAB = "lab"  # everything that is compared with the lab's programs or with LiteLLM, and large tasks
CONVERSATIONS = "conversations"
REPEATS = 3


def main() -> int:
    """Measure, print the table, write JSON and pictures, and return the exit code."""
    names = [one.name for one in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenario", nargs="*", choices=[*names, LAB, LOCAL, CONVERSATIONS, []], default=[],
        help=f"what to measure: {', '.join(names)} (default: all of these); {LAB}: lab-..., litellm and large; "
        f"{LOCAL}: the embedded model; {CONVERSATIONS}: its cache of prompts",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a small run that shows that it works; not exact")
    parser.add_argument("--repeats", type=int, help=f"turns of each scenario (default: {REPEATS}, with --quick 1)")
    parser.add_argument("--lab", type=Path, help="the folder of the lab's programs in Go: upstream, labgw, refnode")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else REPEATS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: every process that was started is stopped
    try:
        if options.scenario == [LOCAL]:
            keep_local(options.quick)
        elif options.scenario == [CONVERSATIONS]:
            keep_conversations(options.quick)
        else:
            keep(choose(options.scenario), repeats, options.quick, options.lab)
    except (BenchmarkError, StackError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def choose(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios with these names, in the order of the table; all of them without a name."""

    def is_meant(one: Scenario) -> bool:
        return one.name in names or (LAB in names and (GO in one.targets or one.name in (LITELLM.lower(), "large")))

    return [one for one in SCENARIOS if not names or is_meant(one)]


def keep(scenarios: Sequence[Scenario], repeats: int, quick: bool, folder: Path | None) -> None:
    """Run the scenarios, and write their results.

    Args:
        folder: that of the lab's programs.
    """
    parties = find_parties([one for one in scenarios if one.quick or not quick], folder)
    began = time.time()
    measured = runner.run(scenarios, repeats, quick, parties)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S", time.gmtime(began))
    path.with_suffix(".json").write_text(json.dumps(runner.result(measured, began, quick), indent=1))
    plot.draw(measured, path.with_suffix(".png"))
    print_result(report.table(measured), path)


def find_parties(scenarios: Sequence[Scenario], folder: Path | None) -> Parties:
    """Return the parties of these scenarios that can be had, and print why another one is left out."""
    wanted = {target for one in scenarios for target in one.targets}
    if GO in wanted and folder is None:
        print("the lab is left out: --lab names no folder of its programs")
    elif GO in wanted and folder is not None and lab.missing(folder):
        print(f"the lab is left out: {folder} has no {', '.join(lab.missing(folder))}")
        folder = None
    command, why = litellm.find() if LITELLM in wanted else (None, "")
    if why:
        print(f"LiteLLM is left out: {why}")
    return Parties(folder.resolve() if folder else None, command)


def keep_local(quick: bool) -> None:
    """Measure the embedded model, and write the results."""
    began = time.time()
    found = local.measure(quick)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S-local", time.gmtime(began))
    path.with_suffix(".json").write_text(json.dumps({"machine": machine.facts(), **found.as_dict()}, indent=1))
    local.draw(found, path.with_suffix(".png"))
    print_result(local.table(found), path)


def keep_conversations(quick: bool) -> None:
    """Measure the cache of prompts, and write the results."""
    began = time.time()
    found = conversations.measure(quick)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S-conversations.json", time.gmtime(began))
    path.write_text(json.dumps(conversations.as_dict(found), indent=1))
    print(conversations.table(found))
    print(f"kept: {path}")


def print_result(table: str, path: Path) -> None:
    """Print table, machine and files on stdout."""
    print(table)
    for name, fact in machine.facts().items():
        print(f"{name}: {fact}")
    print(f"kept: {path}.json, {path}.png")


if __name__ == "__main__":
    sys.exit(main())
