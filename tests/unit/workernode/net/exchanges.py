"""HTTP requests to the fake upstream, or to a server that misbehaves in one way."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from workernode.net.exchange import Exchange
from workernode.net.http_client import Pool
from workernode.net.origin import Origin

LONG = 10.0  # seconds: a wait that must end sooner by something else


def pool_of(port: int) -> Pool:
    return Pool(Origin(False, "127.0.0.1", port), LONG, None)


def ask(pool: Pool, directive: dict[str, Any] | None = None, **limits: Any) -> Exchange:
    """One chat request that has the fake upstream behave in a way."""
    directive = dict(directive or {})
    stream = directive.pop("stream", False)
    content = "lab:" + json.dumps(directive)
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]}).encode()
    limits = {"deadline": time.monotonic() + LONG, "silence": LONG, **limits}
    return pool.post("/v1/chat/completions", {"Content-Type": "application/json"}, body, **limits)


def whole(pool: Pool, directive: dict[str, Any] | None = None, **limits: Any) -> bytes:
    """The body of an exchange that goes well, with the connection kept where it can be."""
    asked = ask(pool, directive, **limits)
    body = asked.read_all()
    asked.finish()
    return body


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that is nothing but what `talk` does with each connection, one after another; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    talk(connection)
                except OSError:
                    continue  # the client has left

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(LONG)
