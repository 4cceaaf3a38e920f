"""Streams whose workers are gone are ended when the node stops, at a real gateway's double."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from supervisor.workers import drain_ender
from tests.support.gateway import FakeGateway
from workernode.errors import broken_error
from workernode.gateway import timing
from workernode.protocol import Decision, Job, Rejection
from workernode.record import Node
from workernode.settings import load

SETTINGS = load({"NODE_TYPE": "remote", "MODEL_NAME": "m", "API_URL": "http://127.0.0.1:9", "API_KEY": "k-1234567",
                 "PULSAR_URL": "pulsar://127.0.0.1"})  # fmt: skip
NODE = Node("node-1", "host", "remote", "1")
BROKEN = Rejection("broken", Decision.ACK, broken_error("the node was stopped."), 0)


def job(gateway: FakeGateway, id: str) -> Job:
    """A begun stream whose worker is gone."""
    message = {"request_id": id, "stream": True, "endpoint": gateway.ws_url, "data": {"model": "m", "messages": []}}
    now, wall = time.monotonic(), time.time()
    return Job(1, 0, json.dumps(message).encode(), wall, wall, now, now + 60.0, 0, BROKEN)


@pytest.mark.parametrize("refusals", [0, 3])
def test_a_stream_is_ended_with_its_error_though_the_gateway_refuses_at_first(
    refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "OFFER_TIME", 0.0)  # a worker would give the answer to the supervisor at once
    with closing(FakeGateway()) as gateway:
        gateway.register("a")
        if refusals:
            gateway.behave(times=refusals, upgrade_status=503)
        [outcome] = drain_ender.run([job(gateway, "a")], SETTINGS, NODE)
        answer = gateway.answer("a").wait()
    assert outcome.kept is None
    assert (outcome.status, outcome.decision) == ("broken", Decision.ACK)
    assert answer.error is not None
    assert answer.error["code"] == "stream_interrupted"
