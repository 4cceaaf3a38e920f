"""Asks upstream for its list of models: a question that costs nothing, over the same HTTP client as the tasks.

So it takes the same way as a task: the same proxy, the same authorities, no .netrc, no redirect.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, quote

from workernode.json_access import as_list, member, strings
from workernode.net.http_client import Pool
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy
from workernode.net.tls import tls_context
from workernode.protocol import Target
from workernode.settings import Settings
from workernode.upstream import models_address, request_headers, upstream_target

MOST_BYTES = 8 * 1024 * 1024  # of the list of models


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """Upstream's answer."""

    status: int  # of HTTP
    headers: dict[str, str]  # by lower-case name
    body: bytes  # the first MOST_BYTES of it


class ModelList:
    """The list of models of one upstream."""

    def __init__(self, settings: Settings, target: Target | None = None) -> None:
        """Connect to nothing yet.

        Args:
            target: with the key that is in use now; None: that of the settings.
        """
        self.address: SplitResult = models_address(settings.api_url)
        origin = Origin.of(self.address)
        target = self._target = target or upstream_target(settings)
        self.proxy = Proxy.parse(target.proxy) if target.proxy else None
        tls = tls_context(target.ca) if origin.secure else None
        self._pool = Pool(origin, settings.connect_timeout, tls, self.proxy)
        # Azure lists what could be deployed, not what is: a model's name is that of its deployment there.
        self.is_shared = "/deployments/" in settings.api_url

    def ask(self, time_limit: float, *, model: str = "", with_key: bool = True) -> ListAnswer:
        """Return the answer to one question.

        Args:
            time_limit: seconds for all of it.
            model: ask for this one model instead of the list: lists leave out aliases.
            with_key: False: ask as somebody without a key, and without the operator's own headers.

        Raises:
            OSError, http.client.HTTPException, ValueError: no answer came, or none that is HTTP.
        """
        path = self.address.path + (f"/{quote(model, safe='')}" if model else "")
        query = f"?{self.address.query}" if self.address.query else ""
        return self._get(path + query, self._target if with_key else Target(self._target.url, None), time_limit)

    def ask_metrics(self, time_limit: float) -> ListAnswer:
        """Return the answer of the server's `/metrics`, which is asked for without the key.

        Raises:
            OSError, http.client.HTTPException, ValueError: as `ask`.
        """
        return self._get("/metrics", Target(self._target.url, None), time_limit)

    def _get(self, path: str, target: Target, time_limit: float) -> ListAnswer:
        deadline = time.monotonic() + time_limit
        exchange = self._pool.get(path, request_headers(target), deadline=deadline, silence=time_limit)
        try:
            body = b""
            while len(body) < MOST_BYTES and (piece := exchange.read_some()):
                body += piece
        except BaseException:
            exchange.abort()
            raise
        exchange.finish()
        return ListAnswer(exchange.status, dict(exchange.headers), body[:MOST_BYTES])

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def listed_models(body: bytes) -> tuple[str, ...]:
    """Return the names in a list of models; none if the body is no such list."""
    try:
        return strings(member(entry, "id") for entry in as_list(member(json.loads(body), "data")))
    except (ValueError, RecursionError):
        return ()
