"""Plain HTTP requests to the doubles of upstream and gateway, as their own tests send them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from tests.support.upstream import FakeUpstream

TIMEOUT = 10


@contextmanager
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        yield connection


def chat(ask: str | dict[str, Any], **fields: Any) -> bytes:
    words = ask if isinstance(ask, str) else "lab:" + json.dumps(ask)
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": words}], **fields}).encode()


def begin(
    connection: http.client.HTTPConnection, ask: str | dict[str, Any] = "hello", **fields: Any
) -> http.client.HTTPResponse:
    connection.request("POST", "/v1/chat/completions", chat(ask, **fields), {"Authorization": "Bearer k"})
    return connection.getresponse()


def whole(
    upstream: FakeUpstream, ask: str | dict[str, Any] = "hello", **fields: Any
) -> tuple[int, dict[str, str], bytes]:
    with client(upstream.port) as connection:
        answer = begin(connection, ask, **fields)
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def collect(answer: http.client.HTTPResponse, pieces: list[bytes]) -> None:
    while piece := answer.read1():
        pieces.append(piece)


def events(body: bytes) -> list[str]:
    return [line.removeprefix("data:").strip() for line in body.decode().splitlines() if line.startswith("data:")]
