"""Asks a remote upstream once, at the start, whether it takes the key and knows the model (spec 5): nothing is billed.

Runs on a thread of its own; what it finds is posted. An upstream without a list of models is fine, and so is one that
is away: what passes by itself is found out by the first task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.client import HTTPException

from supervisor.upstream import ModelList, listed_models
from workernode.protocol import FaultInfo, FaultKind
from workernode.settings import Settings
from workernode.upstream import fault_of_response

TIME_LIMIT = 15.0  # seconds for one question


def start(settings: Settings, found: Callable[[FaultInfo], None]) -> None:
    """Ask in the background; `found` is called, from the thread, with a fault that a person must mend."""

    def ask() -> None:
        fault = check_model_list(settings)
        if fault is not None:
            found(fault)

    threading.Thread(target=ask, name="preflight", daemon=True).start()


def check_model_list(settings: Settings) -> FaultInfo | None:
    """Return what is wrong with the key or the model; None if nothing is, or if upstream does not say."""
    if "/deployments/" in settings.api_url:
        return None  # Azure lists what could be deployed, not what is
    models, model = ModelList(settings), settings.upstream_model or settings.model_name
    try:
        answer = models.ask(TIME_LIMIT)
        if answer.status == 200:
            if model in listed_models(answer.body):
                return None
            answer = models.ask(TIME_LIMIT, model=model)  # lists leave out aliases; the model's own address knows
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        models.close()
    if answer.status == 200:
        return None
    fault = fault_of_response(answer.status, answer.headers, answer.body[:65536], is_own_model=True)
    return fault.info() if fault.kind in (FaultKind.KEY, FaultKind.MODEL, FaultKind.QUOTA) else None
