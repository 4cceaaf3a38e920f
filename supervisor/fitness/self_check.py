"""Checks in the background whether upstream serves this node: at the start, and while the node is suspect (spec 5).

The check is a chat request of the node's own. The list of models decides nothing: many providers show it to everybody,
and some keys may chat but may not list. At the start the list is asked first, because it costs nothing, and only where
it is refused the chat request follows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http.client import HTTPException

from supervisor.events import SelfChecked
from supervisor.fitness.blame import NAMED
from supervisor.upstream import ModelList, listed_models, send_chat_request
from workernode.protocol import NODE_KINDS, FaultInfo, FaultKind, Target
from workernode.settings import Settings
from workernode.upstream import fault_of_response

log = logging.getLogger(__name__)

TIME_LIMIT = 5.0  # seconds for one request
REPEAT_AFTER = 0.5  # seconds: a refusal that passes is not believed
UNKNOWN = FaultInfo(FaultKind.PASSING, 0, "", "the self-check shows nothing")


def start_self_check(
    settings: Settings, target: Target, at_start: bool, done: Callable[[SelfChecked], None],
    list_seen: Callable[[bytes], None] = lambda _: None,
) -> None:  # fmt: skip
    """Check in the background.

    Args:
        target: with the key that is in use now.
        at_start: send the chat request only if the list of models is refused.
        done: called, from the thread, with each result; not called where no chat request was sent.
        list_seen: called, from the thread, with the body of the list of models that upstream has answered with.
    """

    def check() -> None:
        if not at_start or is_list_refused(settings, target, list_seen):
            done(self_check(settings, target, done))

    threading.Thread(target=check, name="self-check", daemon=True).start()


def self_check(settings: Settings, target: Target, first_refusal: Callable[[SelfChecked], None]) -> SelfChecked:
    """Send the chat request, and once more if it is refused; return what that shows.

    Args:
        target: with the key that is in use now.
        first_refusal: called with the result of the first request if it is refused.
    """
    asked_at = time.monotonic()
    fault = send_chat_request(settings, target, TIME_LIMIT)
    if fault is not None and fault.kind in NODE_KINDS:
        first_refusal(SelfChecked(asked_at, fault, is_first_refusal=True))
        time.sleep(REPEAT_AFTER)
        asked_at = time.monotonic()
        again = send_chat_request(settings, target, TIME_LIMIT)
        fault = again if again is None or again.kind is fault.kind else UNKNOWN
    shown = "upstream answers" if fault is None else f"{fault.kind.value} ({fault.http_status or 'no answer'})"
    log.info("self-check, a chat request of one token: %s", shown, extra={"event": "self_check"})
    return SelfChecked(asked_at, fault)


def is_list_refused(
    settings: Settings, target: Target, list_seen: Callable[[bytes], None] = lambda _: None
) -> bool:
    """Return whether the list of models refuses the key, or upstream answers that it does not know the node's model."""
    model = settings.upstream_model or settings.model_name
    models = ModelList(settings, target)
    try:
        answer = models.ask(TIME_LIMIT)
        if answer.status == 200:
            list_seen(answer.body)
            listed = listed_models(answer.body)
            if not listed or model in listed or models.is_shared:
                return False
            answer = models.ask(TIME_LIMIT, model=model)  # lists leave out aliases; the model's own address knows
            if answer.status == 200:
                return False
        return fault_of_response(answer.status, answer.headers, answer.body[:65536], is_own_model=True).kind in NAMED
    except (OSError, HTTPException, ValueError):
        return False  # tasks find out
    finally:
        models.close()
