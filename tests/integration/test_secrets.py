"""Canaries for every secret, through everything that can go wrong: none is seen anywhere (issue 3, 8)."""

from __future__ import annotations

import json
from pathlib import Path

from devstack.broker import Broker
from tests.faults.testbed import Testbed, open_testbed
from tests.support.fixtures import API_KEY
from tests.support.node import Node

TOKEN = "pulsar-token-canary-7c1d2e3f4a5b"
CLIENTS = "clients-own-canary-0a1b2c3d4e5f"
HEADERS = {
    "User-Agent": ["curl/8.5"],
    "Authorization": [f"Bearer {CLIENTS}"],
    "X-Api-Key": [CLIENTS],
    "Cookie": [f"session={CLIENTS}"],
}
PROMPT = "a-prompt-that-is-nobodys-business"


def everything(one: Testbed) -> None:
    """Tasks that end in every way; upstream repeats the key that it was given, as some do."""
    task = {"metadata": {"headers": HEADERS}}
    error = {"err_msg": f"Incorrect API key provided: {API_KEY}. ", "err_code": API_KEY}
    asks = [
        "hello " + PROMPT,
        {"status": 400, **error},
        {"status": 500, **error},
        {"raw": json.dumps({"error": {"message": API_KEY}})},
        {"error_mid": True, "chunk_ms": 20},
    ]
    for stream in (False, True):
        for ask in asks:
            one.platform.ask(ask, stream, task=task)
        one.platform.ask(stream=stream, task={**task, "data": PROMPT})
    one.platform.publish(f"rubbish {API_KEY} {TOKEN}".encode())
    one.gateway.wait_all(one.platform.asked)
    one.answer(one.platform.ask({"status": 401, **error}, task=task))  # the last: after it the node is unfit


def arguments(node: Node) -> str:
    """The command lines of the node's processes, as `ps` shows them to everybody on the machine."""
    pids = [node.pid, *(process.pid for process in node.tree())]
    assert len(pids) > 3, "workers are among them"
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ") for pid in pids)


def test_no_secret_is_seen_anywhere(broker: Broker, tmp_path: Path) -> None:
    with open_testbed(
        broker, tmp_path, DEBUG="true", PULSAR_TOKEN=TOKEN, MAX_REDELIVERIES=0, AIMODEL_NAME="m", NAK_DELAY=0
    ) as one:
        node = one.start()
        seen_by_ps = arguments(node)
        everything(one)
        one.platform.wait_backlog(0)
        letters = one.platform.wait_dead_letters(3)
        seen = {
            "arguments": seen_by_ps,
            "status": "\n".join(node.status(path)[1] for path in ("/readyz", "/metrics", "/livez")),
            "records": json.dumps(one.platform.records()),
            "reasons": json.dumps([letter.properties for letter in letters]),
            "answers": "\n".join([post.body.decode() for post in one.gateway.posts]),
            "frames": "\n".join(frame.text for answer in one.gateway.answers for frame in answer.frames),
        }
        node.sigterm()
        assert node.wait_exit() == 0
        seen["log"] = node.output
        for place, text in seen.items():
            assert text, place
            for secret in (API_KEY, TOKEN, CLIENTS):
                assert secret not in text, place
        for place in ("log", "records", "status", "reasons"):
            assert PROMPT not in seen[place], place
        assert '"DEBUG"' in seen["log"]
        for request in one.upstream.requests:
            assert CLIENTS not in request.request.head.decode() + request.body.decode(), "forwarded to upstream"
        kept = b"\n".join(letter.payload for letter in letters).decode()
        assert CLIENTS not in kept, "the client's secrets outlive the task in the dead-letter topic"
