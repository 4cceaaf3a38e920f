"""A worker's services between a fake upstream and a fake gateway, and what a test checks of each outcome."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from msgspec.msgpack import decode, encode

from tests.support.fixtures import API_KEY
from tests.support.gateway import Answer, FakeGateway
from tests.support.paths import ROOT
from tests.support.upstream import FakeUpstream
from workernode import attempt, record
from workernode.attempt import Services
from workernode.gateway import Gateways
from workernode.outcome import OutcomeBuilder
from workernode.protocol import AnswerState, Job, Kept, Outcome, Rejection, Target
from workernode.settings import Settings, load
from workernode.stream_memory import StreamSaver
from workernode.upstream import Upstream

LONG = 20.0  # seconds: what must end sooner by something else
VALIDATOR = Draft202012Validator(json.loads((ROOT / "docs" / "record.schema.json").read_text(encoding="utf-8")))
SECRET = "Bearer sk-clients-own-secret-1"
WORDS = "".join(f"wörd {number} " for number in range(5))


class Progress:
    """What the supervisor would see; see attempt.Progress."""

    def __init__(self) -> None:
        self.shown: list[AnswerState] = []
        self.tokens = 0
        self.saver: StreamSaver | None = None

    def show_answer_state(self, state: AnswerState) -> None:
        self.shown.append(state)

    def count_tokens(self, tokens: int) -> None:
        self.tokens += tokens


class Bench:
    """A worker's services with a fake upstream and a fake gateway on its two sides."""

    def __init__(self, upstream: FakeUpstream, gateway: FakeGateway, **variables: str) -> None:
        self.up, self.gateway = upstream, gateway
        self.settings: Settings = load(
            {
                "NODE_TYPE": "remote",
                "MODEL_NAME": "m",
                "API_URL": upstream.api_url,
                "API_KEY": API_KEY,
                "PULSAR_URL": "pulsar://127.0.0.1",
                "NAK_DELAY": "0.1",
                **variables,
            }
        )
        self.upstream = Upstream(5.0, LONG, lambda seen: None)
        self.upstream.set_target(Target(self.settings.api_url, self.settings.api_key))
        node = record.Node("node-1", "host-a", "remote", "1.2.3", worker=1)
        gateways = Gateways(5.0, slots=8)
        self.services = Services(self.settings, self.upstream, gateways, OutcomeBuilder(self.settings, node))
        self.progress = Progress()
        self.number = 0

    def job(
        self, payload: bytes, seconds: float = LONG, redeliveries: int = 0, rejection: Rejection | None = None
    ) -> Job:
        """A delivery of a message that was published two seconds ago and has so many seconds left."""
        self.number += 1
        now, wall = time.monotonic(), time.time()
        return Job(self.number, 0, payload, wall - 2, wall, now, now + seconds, redeliveries, rejection)

    def payload(self, id: str, directive: dict[str, Any], stream: bool, changes: dict[str, Any], **chat: Any) -> bytes:
        content = "lab:" + json.dumps(directive)
        task = {
            "request_id": id,
            "stream": stream,
            "endpoint": self.gateway.ws_url if stream else self.gateway.post_url,
            "data": {"model": "m", "messages": [{"role": "user", "content": content}], **chat},
            "metadata": {"headers": {"User-Agent": ["curl/8"], "Authorization": [SECRET]}},
            **changes,
        }
        return json.dumps({name: value for name, value in task.items() if value is not ...}).encode()

    def run(
        self,
        directive: dict[str, Any] | None = None,
        stream: bool = False,
        *,
        id: str = "",
        known: bool = True,
        seconds: float = LONG,
        redeliveries: int = 0,
        rejection: Rejection | None = None,
        changes: dict[str, Any] | None = None,
        **chat: Any,
    ) -> tuple[Outcome, Answer]:
        """Run one task; gives its outcome and what the gateway has of it.

        An answer that the gateway has not got is offered again and again, as the supervisor does it.
        """
        id = id or uuid.uuid4().hex
        if known:
            self.gateway.register(id)
        payload = self.payload(id, directive or {}, stream, changes or {}, **chat)
        self.progress = Progress()
        job = self.job(payload, seconds, redeliveries, rejection)
        outcome = attempt.run(job, self.services, self.progress)
        while outcome.kept is not None:
            time.sleep(0.02)
            again = decode(encode(outcome.kept), type=Kept)
            outcome = attempt.run(replace(job, kept=again), self.services, self.progress)
        return outcome, self.gateway.answer(id)

    def close(self) -> None:
        self.upstream.set_target(Target("http://127.0.0.1:9/", None))
        self.services.gateways.connections.close()


def record_of(outcome: Outcome) -> dict[str, Any]:
    """The outcome's record, which is valid and holds no secret."""
    text = outcome.record.decode()
    made: dict[str, Any] = json.loads(text)
    VALIDATOR.validate(made)
    for secret in (API_KEY, SECRET, "sk-clients"):
        assert secret not in text
    assert made["outcome"]["status"] == outcome.status
    assert made["outcome"]["decision"] == outcome.decision.value
    assert made["request_id"] == (outcome.request_id or None)
    assert made["attempts"] == outcome.attempts
    return made


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
