"""Asks upstream for its list of models, in the background: at the start, and while the node is suspect (spec 5).

It costs nothing. An upstream without such a list is fine, and so is one that is away: tasks find that out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.client import HTTPException

from supervisor.events import ModelListSeen
from supervisor.upstream import ListAnswer, ModelList, listed_models
from workernode.protocol import NODE_KINDS, FaultInfo, Target
from workernode.settings import Settings
from workernode.upstream import fault_of_exception, fault_of_response

TIME_LIMIT = 10.0  # seconds for one question
REPEAT_AFTER = 1.0  # seconds: a refusal that passes is not believed
NO_ANSWER = (OSError, HTTPException, ValueError)


def ask_model_list(settings: Settings, target: Target, repeat: bool, seen: Callable[[ModelListSeen], None]) -> None:
    """Ask in the background; `seen` is called, from the thread, with what the answer says.

    Args:
        target: with the key that is in use now.
        repeat: ask a second time if the answer is a refusal.
    """

    def ask() -> None:
        seen(ask_list(settings, target, repeat=repeat))

    threading.Thread(target=ask, name="model-list", daemon=True).start()


def ask_list(settings: Settings, target: Target, *, repeat: bool) -> ModelListSeen:
    """Ask, and return what the answer says. Arguments as those of `ask_model_list`."""
    models = ModelList(settings, target)
    try:
        first = _ask(models, settings.upstream_model or settings.model_name)
        if first.fault is None or not repeat:
            return first
        time.sleep(REPEAT_AFTER)
        again = _ask(models, settings.upstream_model or settings.model_name)
        is_same = again.fault is not None and again.fault.kind is first.fault.kind
        return ModelListSeen(again.fault, is_repeated=True) if is_same else ModelListSeen()
    except NO_ANSWER as error:
        fault = fault_of_exception(error).info()
        return ModelListSeen(fault) if fault.kind in NODE_KINDS else ModelListSeen()
    finally:
        models.close()


def _ask(models: ModelList, model: str) -> ModelListSeen:
    answer = models.ask(TIME_LIMIT)
    if answer.status != 200:
        return ModelListSeen(_fault(answer))
    listed = listed_models(answer.body)
    has_model = model in listed
    if listed and not has_model and not models.is_shared:
        one = models.ask(TIME_LIMIT, model=model)  # lists leave out aliases; the model's own address knows
        has_model = one.status == 200
        if not has_model and (fault := _fault(one)) is not None:
            return ModelListSeen(fault)
    needs_key = models.ask(TIME_LIMIT, with_key=False).status in (401, 403)
    return ModelListSeen(None, needs_key, bool(listed), has_model)


def _fault(answer: ListAnswer) -> FaultInfo | None:
    fault = fault_of_response(answer.status, answer.headers, answer.body[:65536], is_own_model=True).info()
    return fault if fault.kind in NODE_KINDS else None
