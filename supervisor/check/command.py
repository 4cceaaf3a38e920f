"""`--check`: looks at all that the node needs and says what is wrong and what to do, without starting the node.

All checks run at once and none is waited for longer than TIME_LIMIT. Exit code 0: nothing is wrong; 1: something is;
argparse's 2: the command line is wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from supervisor.check import broker as check_broker
from supervisor.check import clock as check_clock
from supervisor.check import kubernetes as check_kubernetes
from supervisor.check import local as check_local
from supervisor.check import machine as check_machine
from supervisor.check import status as check_status
from supervisor.check import upstream as check_upstream
from supervisor.check.findings import TIME_LIMIT, Check, Context, Finding, Mark, run_all
from supervisor.version import version
from workernode.settings import Settings, SettingsError, load, read_environment

ENVIRONMENT = "environment"
OTHERS = "everything else"
FINE, WRONG = 0, 1  # exit codes


def check(environ: Mapping[str, str], dotenv_path: Path, as_json: bool) -> int:
    """Check, print what was found, and return the exit code. Threads that hang may be left behind."""
    findings = look(environ, dotenv_path)
    print(report(findings) if as_json else table(findings))
    return WRONG if any(finding.mark is Mark.FAULT for finding in findings) else FINE


def leave(code: int) -> None:
    """End the process now: what hangs in a library would keep it alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def look(environ: Mapping[str, str], dotenv_path: Path) -> list[Finding]:
    """Everything that was found, in the order of the table."""
    try:
        settings = load(read_environment(environ, dotenv_path))
    except SettingsError as error:
        found = [environment_fault(fault) for fault in error.faults]
        return [*found, Finding(OTHERS, Mark.NONE, "not without a right environment")]
    context = Context(settings, time.monotonic() + TIME_LIMIT)
    found = run_all(checks_of(settings), context)
    told = f"a {settings.node_type} node for {settings.model_name}, {settings.max_process_num} requests at once"
    return [Finding(ENVIRONMENT, Mark.OK, told), *found, check_clock.clock(context)]


def checks_of(settings: Settings) -> list[Check]:
    """What such a node needs."""
    model: Callable[[], list[Check]] = check_upstream.checks if settings.node_type == "remote" else check_local.checks
    return [
        *check_status.checks(),
        *check_broker.checks(),
        *model(),
        *check_kubernetes.checks(),
        *check_machine.checks(),
    ]


def environment_fault(fault: str) -> Finding:
    """A fault of the settings: its line says what is wrong, a semicolon, and what is right."""
    said, _, right = fault.partition("; ")
    return Finding(ENVIRONMENT, Mark.FAULT, said, right)


def table(findings: Sequence[Finding]) -> str:
    """The findings for a person."""
    mark_width = max(len(finding.mark.value) for finding in findings)
    name_width = max(len(finding.name) for finding in findings)
    lines = [f"WorkerNode {version()}, --check", ""]
    for finding in findings:
        mark = finding.mark.value.upper() if finding.mark is Mark.FAULT else finding.mark.value
        lines.append(f"{mark:{mark_width}}  {finding.name:{name_width}}  {finding.said}")
        if finding.advice:
            lines.append(f"{'':{mark_width + name_width + 4}}→ {finding.advice}")
    counts = Counter(finding.mark for finding in findings)
    lines.append("")
    if counts[Mark.FAULT]:
        lines.append(f"{counts[Mark.FAULT]} of {len(findings)} are at fault.")
    else:
        lines.append("Nothing is at fault.")
    if counts[Mark.LOOK]:
        lines.append(f"{counts[Mark.LOOK]} need a look: they may be as they should.")
    return "\n".join(lines)


def report(findings: Sequence[Finding]) -> str:
    """The findings as JSON."""
    found = [
        {"name": each.name, "mark": each.mark.name.lower(), "said": each.said, "advice": each.advice or None}
        for each in findings
    ]
    fine = all(finding.mark is not Mark.FAULT for finding in findings)
    return json.dumps({"ok": fine, "version": version(), "findings": found}, indent=1, ensure_ascii=False)
