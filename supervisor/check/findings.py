"""What a check finds, and how checks run: all at once, each on a thread of its own, and none longer than the limit."""

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

# The command promises 15 s whatever hangs; starting and ending it takes the rest.
TIME_LIMIT = 12.0  # seconds


class Mark(Enum):
    """How something was found."""

    OK = "ok"
    LOOK = "look"  # it may be as it should: a person knows
    FAULT = "fault"  # the node will not serve like this
    NONE = "-"  # not checked; it says why


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    name: str
    mark: Mark
    said: str  # what was found; no secret in it
    advice: str = ""  # what to do about it


@dataclass(slots=True)
class Context:
    """What the checks know, and what they tell each other."""

    settings: Settings
    deadline: float  # monotonic: what is not known by then is not waited for
    lets_in: Future[bool] = field(default_factory=Future)  # the broker lets us in
    node_here: Future[str] = field(default_factory=Future)  # the model of the node that runs on STATUS_ADDR; "": none
    clocks: list[tuple[str, float]] = field(default_factory=list)  # whose clock, how far it is ahead of ours (seconds)

    def known(self, future: Future[T], otherwise: T) -> T:
        """What another check has found, once it has; `otherwise` where that takes until the deadline."""
        try:
            return future.result(self.left())
        except futures.TimeoutError:  # not the builtin one before Python 3.11
            return otherwise

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True)
class Check:
    """Something to be looked at. `run` yields a finding for each of `names`, or ends early where one hinders the rest.
    """

    names: Sequence[str]
    run: Callable[[Context], Iterator[Finding]]


def run_all(checks: Sequence[Check], context: Context) -> list[Finding]:
    """Run the checks and return the findings, in the order of their names. Returns by the context's deadline."""
    found: list[list[Finding]] = [[] for _ in checks]
    threads = [
        threading.Thread(target=run_one, args=(check, context, findings), name=f"check {check.names[0]}", daemon=True)
        for check, findings in zip(checks, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(context.left())
    return [
        finding
        for check, findings, thread in zip(checks, found, threads, strict=True)
        for finding in completed(check, list(findings), thread.is_alive())
    ]


def run_one(check: Check, context: Context, findings: list[Finding]) -> None:
    """A check's thread."""
    try:
        for finding in check.run(context):
            findings.append(finding)
    except Exception as error:  # the edge of the thread: one broken check must not hide what the others found
        name = (missing(check, findings) or list(check.names))[0]
        findings.append(
            Finding(name, Mark.FAULT, f"the check itself failed ({type(error).__name__}: {error})", "please report it")
        )


def completed(check: Check, findings: list[Finding], hangs: bool) -> list[Finding]:
    """The findings, with one for each name that has none."""
    left = missing(check, findings)
    if hangs and left:
        name = left.pop(0)
        said = f"no answer within {TIME_LIMIT:.0f} s"
        findings.append(Finding(name, Mark.FAULT, said, "something on the way takes connections and answers nothing"))
    reason = "the line above hinders it"
    return findings + [Finding(name, Mark.NONE, reason) for name in left]


def missing(check: Check, findings: list[Finding]) -> list[str]:
    """The names without a finding."""
    known = {finding.name for finding in findings}
    return [name for name in check.names if name not in known]
