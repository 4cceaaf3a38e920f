"""Sends one chat request of the node's own: it shows whether upstream serves this node, whatever clients ask for.

One word and one token: it costs next to nothing. It takes the same way as a task (proxy, authorities, headers, the same
reading of the answer), so that it is refused with what refuses tasks.
"""

from __future__ import annotations

import json
import time
from http.client import HTTPException
from urllib.parse import urlsplit

from workernode.call_stats import CallStats
from workernode.errors import UpstreamFault
from workernode.net.http_client import Pool
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy
from workernode.net.tls import tls_context
from workernode.protocol import FaultInfo, Target
from workernode.settings import Settings
from workernode.upstream import fault_of_exception, fault_of_response, read_completion, request_headers


def send_chat_request(settings: Settings, target: Target, time_limit: float) -> FaultInfo | None:
    """Return the fault with which upstream refuses a chat request of this node; None: upstream answers it.

    Args:
        target: with the key that is in use now.
        time_limit: seconds for all of it.
    """
    url = urlsplit(target.url)
    origin = Origin.of(url)
    proxy = Proxy.parse(target.proxy) if target.proxy else None
    pool = Pool(origin, settings.connect_timeout, tls_context(target.ca) if origin.secure else None, proxy)
    headers = {"Content-Type": "application/json", **request_headers(target)}
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    deadline = time.monotonic() + time_limit
    try:
        exchange = pool.post(path, headers, _body(settings), deadline=deadline, silence=time_limit)
        raw = exchange.read_all()
        exchange.finish()
        if not 200 <= exchange.status < 300:
            return fault_of_response(exchange.status, exchange.headers, raw, is_own_model=True).info()
        read_completion(raw, CallStats(), is_own_model=True)
    except UpstreamFault as fault:
        return fault.info()
    except (OSError, HTTPException, ValueError) as error:
        return fault_of_exception(error).info()
    finally:
        pool.close()
    return None


def _body(settings: Settings) -> bytes:
    message = {"role": "user", "content": "hi"}
    model = settings.upstream_model or settings.model_name
    body = {"model": model, "messages": [message], "max_tokens": 1, "stream": False}
    guards = settings.guards  # upstream may refuse a request without what they set
    return json.dumps(guards.apply(body)[0] if guards else body).encode()
