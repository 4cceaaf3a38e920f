"""Asks a vLLM how many requests wait in it, where upstream is one."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from http.client import HTTPException

from supervisor.readings import waiting_requests
from supervisor.upstream.model_list import ModelList
from workernode.json_access import as_list, member
from workernode.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 5.0  # seconds between two questions
TIME_LIMIT = 5.0  # seconds for one


def is_vllm(models: bytes) -> bool:
    """Return whether a list of models is vLLM's, which names itself as the owner of each."""
    try:
        listed = as_list(member(json.loads(models), "data"))
    except (ValueError, RecursionError):
        return False
    return bool(listed) and all(member(entry, "owned_by") == "vllm" for entry in listed)


class EngineQueue:
    """Asks a vLLM for its queue, if upstream is one. Any other upstream is asked nothing."""

    def __init__(
        self, settings: Settings, note: Callable[[int], None], wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Ask nothing yet.

        Args:
            settings: API_URL and what belongs to it.
            note: takes the number of requests that wait, from a thread.
            wait: waits between two questions, in seconds.
        """
        self._settings, self._note, self._wait = settings, note, wait

    def list_seen(self, models: bytes) -> None:
        """Upstream has answered with this list of models: begin to ask, in the background, if it is a vLLM's."""
        if is_vllm(models):
            log.info("upstream is a vLLM: its queue is watched", extra={"event": "engine_queue"})
            threading.Thread(target=self.poll, name="engine-queue", daemon=True).start()

    def poll(self) -> None:
        """Ask until upstream shows no metrics."""
        asks = ModelList(self._settings)
        while True:
            try:
                answer = asks.ask_metrics(TIME_LIMIT)
                if answer.status in (401, 403, 404):
                    break
                self._note(waiting_requests(answer.body.decode(errors="replace")) if answer.status == 200 else 0)
            except (OSError, HTTPException, ValueError):
                self._note(0)
            self._wait(POLL_S)
        self._note(0)
        asks.close()
