"""The queue of a vLLM at API_URL is asked for; no other upstream is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from supervisor.upstream.engine_queue import EngineQueue, is_vllm
from tests.support.wait import until
from workernode.settings import Settings, load

LONG = 60.0
VLLM_LIST = json.dumps({"object": "list", "data": [{"id": "qwen", "object": "model", "owned_by": "vllm"}]}).encode()


class Upstream(BaseHTTPRequestHandler):
    """Answers with the next of `answers`, a status and a body; after the last with 404."""

    answers: list[tuple[int, str]]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        status, text = self.answers.pop(0) if self.answers else (404, "")
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    Upstream.answers, Upstream.asked = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def settings(upstream: ThreadingHTTPServer) -> Settings:
    return load(
        {
            "NODE_TYPE": "remote", "MODEL_NAME": "m", "API_KEY": "sk-1", "PULSAR_URL": "pulsar://localhost",
            "API_URL": f"http://127.0.0.1:{upstream.server_address[1]}/v1",
        }
    )  # fmt: skip


def test_a_vllm_is_asked_for_its_queue_without_the_key_until_it_shows_none(upstream: ThreadingHTTPServer) -> None:
    three, one = (f"vllm:num_requests_waiting {number}.0\n" for number in (3, 1))
    Upstream.answers = [(200, three), (500, "busy"), (200, one)]
    noted: list[int] = []
    EngineQueue(settings(upstream), noted.append, wait=lambda _: None).list_seen(VLLM_LIST)
    until(lambda: len(noted) == 4, LONG, "end of the questions")
    assert noted == [3, 0, 1, 0]
    assert Upstream.asked == [("/metrics", None)] * 4


class Enough(Exception):
    """Ends the questions."""


def test_an_upstream_that_cannot_be_reached_has_no_queue(upstream: ThreadingHTTPServer) -> None:
    asks = settings(upstream)
    upstream.shutdown()
    upstream.server_close()
    noted: list[int] = []

    def wait(_: float) -> None:
        raise Enough

    with pytest.raises(Enough):
        EngineQueue(asks, noted.append, wait).poll()
    assert noted == [0]


@pytest.mark.parametrize(
    "models",
    [
        b"", b"null", b"[]", b'{"data": []}', b'{"data": [{"id": "gpt-4o", "owned_by": "openai"}]}',
        b'{"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "me"}]}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_any_other_upstream_is_asked_nothing(models: bytes, upstream: ThreadingHTTPServer) -> None:
    noted: list[int] = []
    EngineQueue(settings(upstream), noted.append).list_seen(models)
    assert (is_vllm(models), noted, Upstream.asked) == (False, [], [])
