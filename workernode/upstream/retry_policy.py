"""When upstream is asked again within one delivery of a task, and after how long (spec 4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, retry_if_exception, wait_random_exponential

from workernode.errors import STILL_BUSY, UpstreamFault
from workernode.net.waiting import sleep
from workernode.protocol import LONGEST_WAIT_FOR_UPSTREAM, FaultKind
from workernode.retry import call_with_retries

# Attempts of one delivery. More would keep a task from other nodes, which may be well: after them the task is nak'd.
ATTEMPTS = 4
# openai-python waits 0.5 s x 2^n, at most 8 s, with jitter (src/openai/_base_client.py); so do we.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds
# The longest pause before the next attempt, where the kind of fault bounds it: the next delivery may reach a node that
# is well. All pauses for an upstream that is away count together. A rate limit holds the whole node: its tasks wait.
LONGEST_RETRY_PAUSE = {
    FaultKind.UNAVAILABLE: 2.0,
    FaultKind.RATE_LIMIT: LONGEST_WAIT_FOR_UPSTREAM,
    FaultKind.RAMP: LONGEST_WAIT_FOR_UPSTREAM,
}  # seconds

T = TypeVar("T")

_backoff = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, min=FIRST_PAUSE / 2)


def ask_with_retries(
    ask: Callable[[], T],
    deadline: float,
    pause: Callable[[float], None] | None,
    may_retry: Callable[[], bool] = lambda: True,
) -> T:
    """Return what `ask` returns; where it raises a fault that may pass, ask again.

    Args:
        deadline: monotonic; no pause outlasts it.
        pause: waits so many seconds; None: wait and do nothing else.
        may_retry: asked after each failed call, and again after the pause.

    Raises:
        UpstreamFault: of the last attempt. Its traceback is gone: it holds tenacity's state, which holds the fault, and
            such a reference cycle would keep all that was read of an answer in memory.
    """
    failed: list[UpstreamFault] = []  # a copy of the last one: it keeps nothing in memory of what was read

    def ask_if_allowed() -> T:
        if failed and not may_retry():
            raise failed[0]
        try:
            return ask()
        except UpstreamFault as exc:
            failed[:] = [exc.copy()]
            raise

    try:
        return call_with_retries(
            ask_if_allowed,
            retry=retry_if_exception(_may_pass),
            wait=_pause,
            stop=lambda state: not may_retry() or _is_enough(state, deadline),
            sleep=pause or sleep,
        )
    except UpstreamFault as exc:
        fault = exc
    try:
        raise fault.without_traceback()
    finally:
        del fault


def _pause(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: exponential with jitter, and never less than upstream asked for."""
    fault = state.outcome.exception() if state.outcome else None
    asked_for = fault.retry_after if isinstance(fault, UpstreamFault) else None
    return max(_backoff(state), asked_for or 0.0)


def _may_pass(exc: BaseException) -> bool:
    return isinstance(exc, UpstreamFault) and exc.kind in STILL_BUSY


def _is_enough(state: RetryCallState, deadline: float) -> bool:
    """The attempts are used up, or the pause would be too long for the task or for this kind of fault."""
    fault = state.outcome.exception() if state.outcome else None
    longest = LONGEST_RETRY_PAUSE.get(fault.kind, float("inf")) if isinstance(fault, UpstreamFault) else float("inf")
    pause = state.upcoming_sleep
    if isinstance(fault, UpstreamFault) and fault.kind is FaultKind.UNAVAILABLE:
        longest -= state.seconds_since_start or 0.0
    return state.attempt_number >= ATTEMPTS or pause > longest or time.monotonic() + pause >= deadline
