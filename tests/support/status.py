"""A status server with snapshots that a test makes, or with 15 minutes of an invented node.

`python -m tests.support.status [PORT]` serves the invented node until Ctrl-C, for who works on the page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import MessageTotals, NodeInfo, Notice, Snapshot, Upcoming
from supervisor.observability.status_server import StatusServer
from workernode.protocol import Decision, Durations, Outcome
from workernode.settings import Address, Settings, load

INFO = NodeInfo("box-1a2b3c4d", "llama-3-8b", "local", "1.2.3")


def settings(host: str = "127.0.0.1", port: int = 0) -> Settings:
    """Settings of a node that listens there; port 0: any free one."""
    known = load({"NODE_TYPE": "local", "MODEL_NAME": INFO.model, "PULSAR_URL": "pulsar://127.0.0.1"})
    return dataclasses.replace(known, status_addr=Address(host, port))


class Got(NamedTuple):
    """An answer of the status server."""

    status: int
    headers: Mapping[str, str]
    body: str


class Shown:
    """A running server, its metrics, and a client of it."""

    def __init__(self, port: int = 0) -> None:
        self.metrics = Metrics(INFO)
        self.server = StatusServer(settings(port=port), INFO, self.metrics)
        self.url = f"http://127.0.0.1:{self.server.port}/"

    def get(self, path: str, method: str = "GET") -> Got:
        """Ask it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return Got(answer.status, dict(answer.headers), answer.read().decode())
        finally:
            connection.close()


@contextmanager
def shown() -> Iterator[Shown]:
    """A server for one test."""
    one = Shown()
    try:
        yield one
    finally:
        one.server.close()


def serving(at: float, **fields: object) -> Snapshot:
    """A node that serves; `fields` are a Snapshot's."""
    usual: dict[str, object] = {
        "state": "serving", "why": (), "broker_connected": True, "intake": "open", "in_flight": 5, "cap": 8,
        "cap_code": "best", "cap_reason": "the best that was found", "slots": 8, "workers": 2, "workers_ready": 2,
        "child": "ready", "cpu_percent": 61.2, "memory_percent": 48.0, "memory_free_bytes": 8 << 30,
        "memory_limit_bytes": 16 << 30,
    }  # fmt: skip
    return Snapshot(at, **{**usual, **fields})  # type: ignore[arg-type]


KILLED = (
    "The local model server was ended by SIGKILL: it was killed, mostly by the system because memory ran out: "
    "give the node more, or take a smaller model or quantisation."
)
LINES = (
    "srv  update_slots: all slots are idle",
    "slot launch_slot_: id  3 | task 4711 | processing task",
    "slot print_timing: id  3 | task 4711 | eval time = 2312.44 ms / 187 tokens (12.37 ms per token)",
    "srv  log_server_r: request: POST /v1/chat/completions 127.0.0.1 200",
)


def life(now: float) -> Iterator[Snapshot]:
    """A quarter of an hour of a local node, up to `now`: a climb of the cap, a model that died once, steady work."""
    tokens, taken = 0.0, 0
    for second in range(900):
        at = now - 900 + second
        down = 400 <= second < 430
        cap = min(8, 1 + second // 30)
        wave = 0.5 + 0.5 * math.sin(second / 40) * math.cos(second / 13)
        in_flight = 0 if down else max(1, round(cap * (0.6 + 0.4 * wave)))
        tokens += 0 if down else in_flight * 12 * (0.9 + 0.2 * math.sin(second / 7))
        taken += second % 2
        yield serving(
            at,
            why=("the local model does not answer: it is started again",) if down else (),
            next=(Upcoming("the local model is started again", at + 8),) if down else (),
            intake="closed" if down else "full" if in_flight == cap else "open",
            in_flight=in_flight,
            cap=cap,
            tokens=tokens,
            totals=MessageTotals(taken + in_flight, taken - 9, 8, 1),
            child="backoff" if down else "ready",
            child_lines=LINES,
            cpu_percent=12 if down else 55 + 40 * wave,
            memory_percent=(22 if down else 46) + second / 150,
            reports=(Notice(now - 480, "GeneralError", KILLED),),
            faults=(
                Notice(now - 95, "task_ended", "task refused: the request has 9000 tokens, the model takes 8192", 4),
                Notice(now - 478, "model_exited", KILLED),
            ),
        )


def outcome(status: str = "answered", decision: Decision = Decision.ACK, **fields: object) -> Outcome:
    """How a delivery ended; `fields` are an Outcome's."""
    usual: dict[str, object] = {
        "number": 1, "request_id": "r", "decision": decision, "status": status, "record": b"{}", "attempts": 1,
        "prompt_tokens": 10, "completion_tokens": 20, "durations": Durations(0.1, 0.002, 0.3, 1.5, 0.004, 1.6),
    }  # fmt: skip
    return Outcome(**{**usual, **fields})  # type: ignore[arg-type]


def _main() -> None:
    one = Shown(int(*sys.argv[1:] or "0"))
    for snapshot in life(time.monotonic()):
        one.server.update(snapshot)
    print(f"{one.url} until Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for second in range(10**9):
            time.sleep(1)
            now = time.monotonic()
            *_, last = life(now)
            wave = 5 + round(3 * math.sin(second / 5))
            one.server.update(dataclasses.replace(last, in_flight=wave, tokens=last.tokens + 60 * second))


if __name__ == "__main__":
    _main()
