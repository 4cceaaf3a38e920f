"""`--check`: checks all that the node needs and says what is wrong and what to do, without starting the node.

All checks run at once, and none is waited for longer than TIME_LIMIT. Exit code 0: no fault; 1: at least one fault.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from supervisor.check import broker, clock, collector, kubernetes, local, machine, status, tokenizer, upstream
from supervisor.check.findings import TIME_LIMIT, Check, Context, Finding, Mark, run_all
from supervisor.check.local import NewModelServer
from workernode.settings import Settings, SettingsError, load, read_environment
from workernode.version import version

ENVIRONMENT = "environment"
OTHERS = "everything else"
NO_FAULT, FAULTS = 0, 1  # exit codes


def check(
    environ: Mapping[str, str],
    dotenv_path: Path,
    as_json: bool,
    new_model_server: NewModelServer,
    can_export: Callable[[], bool],
) -> int:
    """Run all checks, print the findings, and return the exit code. Threads that hang may still run afterwards.

    Args:
        environ: the environment variables.
        dotenv_path: the .env file that fills what the environment leaves out.
        as_json: print JSON instead of a table.
        new_model_server: makes the local model server; called for a local node.
        can_export: whether OpenTelemetry's packages are installed; called where a collector is named.
    """
    findings = find(environ, dotenv_path, new_model_server, can_export)
    print(report(findings) if as_json else table(findings))
    return FAULTS if any(finding.mark is Mark.FAULT for finding in findings) else NO_FAULT


def find(
    environ: Mapping[str, str], dotenv_path: Path, new_model_server: NewModelServer, can_export: Callable[[], bool]
) -> list[Finding]:
    """Return all findings in the order of the table."""
    try:
        settings = load(read_environment(environ, dotenv_path))
    except SettingsError as error:
        found = [_environment_fault(fault) for fault in error.faults]
        return [*found, Finding(OTHERS, Mark.SKIPPED, "skipped: it needs a correct environment")]
    context = Context(settings, time.monotonic() + TIME_LIMIT)
    found = run_all(_checks_of(settings, new_model_server, can_export), context)
    text = f"a {settings.node_type} node for {settings.model_name}, up to {settings.max_process_num} tasks at once"
    return [Finding(ENVIRONMENT, Mark.OK, text), *found, clock.clock(context)]


def _checks_of(settings: Settings, new_model_server: NewModelServer, can_export: Callable[[], bool]) -> list[Check]:
    """What such a node needs."""
    model = upstream.checks() if settings.node_type == "remote" else local.checks(new_model_server)
    beside = [*kubernetes.checks(), *collector.checks(settings, can_export), *tokenizer.checks(settings)]
    return [*status.checks(), *broker.checks(), *model, *beside, *machine.checks()]


def _environment_fault(fault: str) -> Finding:
    """A fault of the settings: its line has what is wrong, a semicolon, and what is right."""
    wrong, _, right = fault.partition("; ")
    return Finding(ENVIRONMENT, Mark.FAULT, wrong, right)


def table(findings: Sequence[Finding]) -> str:
    """Return the findings for people."""
    mark_width = max(len(finding.mark.value) for finding in findings)
    name_width = max(len(finding.name) for finding in findings)
    lines = [f"WorkerNode {version()}, --check", ""]
    for finding in findings:
        lines.append(f"{finding.mark.value:{mark_width}}  {finding.name:{name_width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':{mark_width + name_width + 4}}→ {finding.advice}")
    return "\n".join([*lines, "", _summary(Counter(finding.mark for finding in findings))])


def _summary(counts: Counter[Mark]) -> str:
    faults, warnings = counts[Mark.FAULT], counts[Mark.WARNING]
    text = f"{_count(faults, 'fault')}: the node will not serve like this." if faults else "No fault."
    return f"{text} {_count(warnings, 'warning')}: decide whether it is as you want it." if warnings else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def report(findings: Sequence[Finding]) -> str:
    """Return the findings as JSON."""
    found = [
        {"name": each.name, "mark": each.mark.name.lower(), "text": each.text, "advice": each.advice or None}
        for each in findings
    ]
    ok = all(finding.mark is not Mark.FAULT for finding in findings)
    return json.dumps({"ok": ok, "version": version(), "findings": found}, indent=1, ensure_ascii=False)
