"""Asks a remote upstream once, at the start, whether it takes the key and knows the model (spec 5): nothing is billed.

Runs on a thread of its own; what it finds is posted. An upstream without `/models` is fine, and so is one that is down:
what passes by itself is found out by the first task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from workernode.protocol import FaultInfo, FaultKind
from workernode.settings import Settings
from workernode.upstream import fault_of_response

MODELS_SUFFIX, CHAT_SUFFIX = "/models", "/chat/completions"


def start(settings: Settings, found: Callable[[FaultInfo], None]) -> None:
    """Ask in the background; `found` is called, from the thread, with a trouble that a person must mend."""

    def ask() -> None:
        trouble = look(settings)
        if trouble is not None:
            found(trouble)

    threading.Thread(target=ask, name="first-look", daemon=True).start()


def look(settings: Settings) -> FaultInfo | None:
    """Return what is wrong with the key or the model; None if nothing is, or if upstream does not say."""
    import requests  # only here: it costs more to import than the rest of the start

    parts = urlsplit(settings.api_url)
    if not parts.path.endswith(CHAT_SUFFIX) or "/deployments/" in parts.path:
        return None  # Azure lists what could be deployed, not what is
    base = urlunsplit(parts._replace(path=parts.path.removesuffix(CHAT_SUFFIX) + MODELS_SUFFIX))
    model = settings.upstream_model or settings.model_name
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {settings.api_key}"

        def get(url: str) -> requests.Response:
            return session.get(url, timeout=(settings.connect_timeout, 10.0), allow_redirects=False)

        try:
            answer = get(base)
            if answer.status_code == 200:
                if model in _ids(answer):
                    return None
                # Lists leave out aliases; the model's own address knows.
                one = urlunsplit(urlsplit(base)._replace(path=f"{urlsplit(base).path}/{quote(model, safe='')}"))
                answer = get(one)
        except (requests.RequestException, ValueError):
            return None
    if answer.status_code == 200:
        return None
    headers = {name.lower(): value for name, value in answer.headers.items()}
    fault = fault_of_response(answer.status_code, headers, answer.content[:65536], is_own_model=True)
    return fault.info() if fault.kind in (FaultKind.KEY, FaultKind.MODEL, FaultKind.QUOTA) else None


def _ids(answer: Any) -> set[str]:
    listed = answer.json()
    data = listed.get("data") if isinstance(listed, dict) else None
    return {item["id"] for item in data or () if isinstance(item, dict) and isinstance(item.get("id"), str)}
