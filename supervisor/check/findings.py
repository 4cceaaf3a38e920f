"""What a check finds, and how checks run: all at once, each on its own thread, none longer than the time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from workernode.settings import Settings

T = TypeVar("T")

# `--check` promises to end within 15 s, whatever hangs. Starting and ending the process takes the rest.
TIME_LIMIT = 12.0  # seconds


class Mark(Enum):
    """The result of a check; the value is what the table shows."""

    OK = "ok"
    WARNING = "warn"  # may be right: a person has to decide
    FAULT = "FAULT"  # the node will not serve like this
    SKIPPED = "-"  # not checked; the text says why


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    name: str  # what was checked: "broker: tasks"
    mark: Mark
    text: str  # what was found; without secrets
    advice: str = ""  # what to do about it


@dataclass(slots=True)
class Context:
    """What all checks know, and results that one check needs of another."""

    settings: Settings
    deadline: float  # monotonic: checks that have not ended by then are not waited for
    broker_accepts: Future[bool] = field(default_factory=Future)  # the broker accepts the connection and the token
    running_node: Future[str] = field(default_factory=Future)  # the model of the node at STATUS_ADDR; "": no node
    clocks: list[tuple[str, float]] = field(default_factory=list)  # whose clock, how far it is ahead of ours (seconds)

    def wait_for(self, future: Future[T], default: T) -> T:
        """Return the result of another check; `default` if it does not come before the deadline."""
        try:
            return future.result(self.left())
        except futures.TimeoutError:  # not the builtin one before Python 3.11
            return default

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True)
class Check:
    """One or more lines of the table that are found together.

    `run` yields a finding for each of `names`. It ends early if one makes the others impossible; those are skipped.
    """

    names: Sequence[str]
    run: Callable[[Context], Iterator[Finding]]


def run_all(checks: Sequence[Check], context: Context) -> list[Finding]:
    """Run the checks and return the findings in the order of their names. Returns by the context's deadline."""
    found: list[list[Finding]] = [[] for _ in checks]
    threads = [
        threading.Thread(target=_run, args=(check, context, findings), name=f"check {check.names[0]}", daemon=True)
        for check, findings in zip(checks, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(context.left())
    return [
        finding
        for check, findings, thread in zip(checks, found, threads, strict=True)
        for finding in _completed(check, list(findings), thread.is_alive())
    ]


def _run(check: Check, context: Context, findings: list[Finding]) -> None:
    """Run one check on its thread."""
    try:
        for finding in check.run(context):
            findings.append(finding)
    except Exception as error:  # the edge of the thread: one broken check must not hide what the others found
        name = (_missing(check, findings) or list(check.names))[0]
        text = f"internal error in this check ({type(error).__name__}: {error})"
        findings.append(Finding(name, Mark.FAULT, text, "please report it to the developers"))


def _completed(check: Check, findings: list[Finding], is_hanging: bool) -> list[Finding]:
    """The findings, with one for each name that has none."""
    names = _missing(check, findings)
    if is_hanging and names:
        name = names.pop(0)
        text = f"no answer within {TIME_LIMIT:.0f} s"
        advice = "look for a firewall or proxy between, or a server that accepts connections and does not answer"
        findings.append(Finding(name, Mark.FAULT, text, advice))
    return findings + [Finding(name, Mark.SKIPPED, "skipped: the check above failed") for name in names]


def _missing(check: Check, findings: list[Finding]) -> list[str]:
    """The names without a finding."""
    known = {finding.name for finding in findings}
    return [name for name in check.names if name not in known]
