"""`workernode-records sum --by key,model` over 1,000 mixed tasks equals what upstream has counted, to the digit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from supervisor.records.sums import GROUPS
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from workernode.record import client_of

TASKS = 1000
SALT = "salt-of-the-operator"
PRICES_FILE = """
version = "v7"
currency = "EUR"
[models]
small = {prompt = 0.15, cached = 0.075, completion = 0.6}
large = {prompt = 2.5, cached = 1.25, completion = 10, reasoning = 12.345678901}
odd = {prompt = 0.000000001, completion = 0.333333333}
"""
PRICES = {  # prompt, cached, completion, reasoning: for a million tokens
    "small": (Fraction("0.15"), Fraction("0.075"), Fraction("0.6"), Fraction("0.6")),
    "large": (Fraction("2.5"), Fraction("1.25"), Fraction(10), Fraction("12.345678901")),
    "odd": (Fraction("0.000000001"), Fraction("0.000000001"), Fraction("0.333333333"), Fraction("0.333333333")),
    "unpriced": (Fraction(0), Fraction(0), Fraction(0), Fraction(0)),
}
MODELS = list(PRICES)
KEYS = [f"Bearer sk-client-{number}" for number in range(4)]


@dataclass
class Bill:
    """What upstream has counted for one key and model."""

    prompt: int = 0
    completion: int = 0
    money: Fraction = field(default_factory=Fraction)
    calls: int = 0
    broken: int = 0

    def add(self, model: str, usage: dict[str, Any], is_broken: bool) -> None:
        prompt, completion = usage.get("prompt_tokens", 0), usage["completion_tokens"]
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        reasoning = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
        self.prompt, self.completion = self.prompt + prompt, self.completion + completion
        self.calls, self.broken = self.calls + 1, self.broken + is_broken
        for_prompt, for_cached, for_completion, for_reasoning = PRICES[model]
        self.money += (prompt - cached) * for_prompt + cached * for_cached
        self.money += (completion - reasoning) * for_completion + reasoning * for_reasoning


def mixed(chance: random.Random) -> tuple[dict[str, Any], bool]:
    """What upstream does with one task, and whether it is a stream: it answers, breaks off, fails twice, refuses."""
    chunks = chance.randrange(1, 9)
    usage = {
        "prompt_tokens": chance.randrange(1, 5000), "total_tokens": 9999,
        "prompt_tokens_details": {"cached_tokens": chance.randrange(0, 2), "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": chance.randrange(0, chunks + 1), "audio_tokens": 0},
    }  # fmt: skip
    ask: dict[str, Any] = {"chunks": chunks, "usage": usage}
    match chance.randrange(10):
        case 0:
            return ask | {"error_mid": True, "chunks": 2 * chunks}, True
        case 1:
            return ask | {"key": f"k{chance.random()}", "status": 500, "fail_times": 1}, False
        case 2:
            return ask | {"status": 400, "err_type": "invalid_request_error"}, chance.random() < 0.5
    return ask, chance.random() < 0.5


def charged(events: list[str]) -> tuple[dict[str, Any] | None, bool]:
    """What upstream charges for one call, by what it has sent, and whether the answer broke off."""
    bodies = [json.loads(event) for event in events]
    for body in reversed(bodies):
        if body.get("usage"):
            return body["usage"], False
    texts = sum(bool(one["delta"].get("content")) for body in bodies for one in body.get("choices", []))
    return ({"completion_tokens": texts}, True) if texts else (None, False)


def test_the_sums_of_1000_mixed_tasks_are_upstreams(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES_FILE)
    node(PRICES=prices, RECORD_SALT=SALT, MAX_PROCESS_NUM=64)
    chance = random.Random(19)
    owners: dict[str, tuple[str, str]] = {}
    for _ in range(TASKS):
        ask, stream = mixed(chance)
        key, model = chance.choice(KEYS), chance.choice(MODELS)
        headers = {"metadata": {"headers": {"Authorization": [key], "User-Agent": ["a"]}}}
        (id,) = platform.ask_many([ask], stream, model=model, task=headers)
        owners[id] = (client_of({"Authorization": key}, {}, SALT).key_id or "", model)
    for id in owners:
        platform.gateway.answer(id).wait(100)
    until(lambda: platform.backlog() == 0, 60, "empty backlog")

    bills: dict[tuple[str, str], Bill] = defaultdict(Bill)
    for call in upstream.requests:
        key_id, model = owners[call.headers["x-client-request-id"]]
        usage, is_broken = charged(call.events)
        if usage is not None:
            bills[key_id, model].add(model, usage, is_broken)

    command = [sys.executable, "-m", "supervisor.records", "sum", "--by", "key,model", "--json"]
    where = ["--url", platform.broker.url, "--topic", platform.res_topic]
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["total"]["requests"], summary["duplicates"], summary["unreadable"]) == (TASKS, 0, 0)
    found = {
        (group["key"], group["model"]): (
            group["prompt_tokens"], group["completion_tokens"], Fraction((group["cost"] or "0 EUR").split()[0]),
            group["counted"],
        )
        for group in summary["groups"]
    }  # fmt: skip
    expected = {
        group: (bill.prompt, bill.completion, bill.money / 1_000_000, bill.broken) for group, bill in bills.items()
    }
    assert found == expected
    assert sum(bill.broken for bill in bills.values()) > 50
    records = platform.records()
    assert {GROUPS["status"](one) for one in records if one["usage_source"] == "counted"} == {"broken"}
    details = [one["usage"].get("completion_tokens_details") for one in records if one["usage_source"] == "upstream"]
    assert all(set(each) == {"reasoning_tokens", "audio_tokens"} for each in details)
