"""When upstream is asked again within one delivery of a task, and after how long (spec 4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, retry_if_exception, wait_random_exponential

from workernode.errors import STILL_BUSY, UpstreamFault
from workernode.protocol import FaultKind
from workernode.retry import call_with_retries

# Attempts of one delivery. More would keep a task from other nodes, which may be well: after them the task is nak'd.
ATTEMPTS = 4
# openai-python waits 0.5 s x 2^n, at most 8 s, with jitter (src/openai/_base_client.py); so do we.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds
# An upstream that is away is waited for no longer than this within one delivery: another node may be well.
LONGEST_WAIT_FOR_ABSENT = 2.0  # seconds

T = TypeVar("T")

_backoff = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, min=FIRST_PAUSE / 2)


def ask_with_retries(ask: Callable[[], T], deadline: float, sleep: Callable[[float], None] | None) -> T:
    """Return what `ask` returns; where it raises a fault that may pass, ask again.

    Args:
        deadline: monotonic; no pause outlasts it.
        sleep: waits so many seconds; None for time.sleep.

    Raises:
        UpstreamFault: of the last attempt. Its traceback is gone: it holds tenacity's state, which holds the fault, and
            such a reference cycle would keep all that was read of an answer in memory.
    """
    try:
        return call_with_retries(
            ask,
            retry=retry_if_exception(_may_pass),
            wait=_pause,
            stop=lambda state: _is_enough(state, deadline),
            sleep=sleep or time.sleep,
        )
    except UpstreamFault as exc:
        fault = exc
    fault.__cause__ = fault.__context__ = None
    try:
        raise fault.with_traceback(None)
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
    """The attempts are used up, or the pause would outlast the task's time or the patience with an absent upstream."""
    fault = state.outcome.exception() if state.outcome else None
    is_absent = isinstance(fault, UpstreamFault) and fault.kind is FaultKind.UNAVAILABLE
    pause = state.upcoming_sleep
    return (
        state.attempt_number >= ATTEMPTS
        or time.monotonic() + pause >= deadline
        or (is_absent and pause > LONGEST_WAIT_FOR_ABSENT)
    )
