"""The next turn of a conversation: does it find its prompt in the local model's cache (issue 20)?

Sixteen conversations go on at the same time, five turns each. The best that is possible is the same model server asked
directly, each conversation pinned to a slot of its own (llama.cpp's `id_slot`).
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import machine
from benchmarks.figures import BenchmarkError, percentile
from benchmarks.progress import MeasurementProgress
from benchmarks.report import markdown
from benchmarks.testbed import NODE, ROOT, Parties, Testbed
from devstack.embedded import MODEL
from devstack.ports import free_port

CONVERSATIONS, QUICK_CONVERSATIONS = 16, 4
TURNS = 5
SLOT_TOKENS = 1024  # context of a slot
FEW_SLOTS = 4  # the other case: fewer slots than conversations
WORDS = ("river", "stone", "cloud", "light", "garden", "window", "paper", "silver", "morning", "forest", "train")
TURN_WORDS = 40  # that a user says in a turn
REPLY = "Yes."  # what the assistant is taken to have said, so that all parties send the same prompts
TOKENS = 2  # the longest answer
READY_S = 120.0
TIME_LIMIT_S = 300.0  # seconds for one turn on a slow machine

Messages = list[dict[str, str]]


@dataclass
class Found:
    """One party."""

    party: str
    slots: int
    first_ms: float  # median first-token time in the last turn
    cached: float  # share of the last turn's prompt tokens that were in the cache


def messages(conversation: int, turn: int) -> Messages:
    """Return what is sent in a turn, counted from 1: all turns before it, and a new question."""
    said: Messages = []
    for number in range(1, turn + 1):
        dice = random.Random(1000 * conversation + number)
        question = " ".join(dice.choice(WORDS) for _ in range(TURN_WORDS))
        said += [{"role": "user", "content": f"{question}. Is that so?"}, {"role": "assistant", "content": REPLY}]
    return said[:-1]


def measure(quick: bool) -> list[Found]:
    """Measure the best that is possible, then the node with as many slots as conversations, and with fewer."""
    count = QUICK_CONVERSATIONS if quick else CONVERSATIONS
    progress = MeasurementProgress(3)
    with Testbed(progress.tick, Parties()) as testbed:
        found = [pinned(progress, count)]
        found += [through_node(testbed, progress, count, slots) for slots in (count, min(FEW_SLOTS, count // 2))]
    return found


def through_node(testbed: Testbed, progress: MeasurementProgress, count: int, slots: int) -> Found:
    """Measure the node."""
    progress.begin(f"{NODE}, {slots} slots")
    variables = {
        "NODE_TYPE": "local", "UPSTREAM_MODEL": MODEL, "API_URL": None, "API_KEY": None,
        "LOCAL_COMMAND": ROOT / "local.sh", "LOCAL_PARALLEL": slots, "LOCAL_CTX": slots * SLOT_TOKENS,
        "MAX_PROCESS_NUM": count, "CPU_HIGH": 100,
    }  # fmt: skip
    with testbed.model() as (model, clients), testbed.node(NODE, model, variables) as node:
        node.wait_ready(READY_S)
        before = after = (0.0, 0.0)
        for turn in range(1, TURNS + 1):
            before = after
            for number in range(count):
                clients.ask(True, messages=messages(number, turn), max_tokens=TOKENS)
            samples = [clients.answered() for _ in range(count)]
            while (metrics := node.metrics())["workernode_tasks_in_flight"]:
                time.sleep(0.05)
            after = prompt_tokens(metrics)
    first_ms = 1000 * percentile((one.chunks[0] - one.asked for one in samples), 0.5)
    cached = (after[1] - before[1]) / (after[0] - before[0])
    progress.end(f"{first_ms:.0f} ms, {cached:.0%} cached")
    return Found(NODE, slots, first_ms, cached)


def prompt_tokens(metrics: dict[str, float]) -> tuple[float, float]:
    """Return the tokens of all prompts so far, and how many of them were in the cache."""
    return metrics['workernode_tokens_total{kind="prompt"}'], metrics["workernode_prompt_tokens_cached_total"]


def pinned(progress: MeasurementProgress, count: int) -> Found:
    """Measure the model server without a node, each conversation on a slot of its own."""
    progress.begin("pinned slots")
    answers: list[tuple[float, int, int]] = []
    with model_server(count) as port:
        for turn in range(1, TURNS + 1):
            answers.clear()
            in_parallel(count, lambda number, turn=turn: answers.append(ask(port, number, turn)))  # type: ignore[misc]
    first_ms = 1000 * percentile((first for first, _, _ in answers), 0.5)
    cached = sum(cached for _, _, cached in answers) / sum(prompt for _, prompt, _ in answers)
    progress.end(f"{first_ms:.0f} ms, {cached:.0%} cached")
    return Found("best possible (pinned slots)", count, first_ms, cached)


@contextmanager
def model_server(slots: int) -> Iterator[int]:
    """Run the embedded model; give its port."""
    port = free_port()
    command = [sys.executable, "-m", "devstack.embedded", "--port", str(port), "--parallel", str(slots)]
    process = subprocess.Popen([*command, "--ctx-size", str(slots * SLOT_TOKENS)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + READY_S
        while not is_healthy(port):
            if time.monotonic() > ends or process.poll() is not None:
                raise BenchmarkError("the embedded model does not start")
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def is_healthy(port: int) -> bool:
    """Return whether the model server takes requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def ask(port: int, conversation: int, turn: int) -> tuple[float, int, int]:
    """Ask for one turn.

    Returns:
        Seconds to the first token, tokens of the prompt, and how many of them were in the cache.
    """
    body: dict[str, Any] = {
        "messages": messages(conversation, turn), "max_tokens": TOKENS, "stream": True, "id_slot": conversation,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT_S)
    asked = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise BenchmarkError(f"the model server answered with status {response.status}")
    first: float | None = None
    usage: dict[str, Any] = {}
    for line in response:
        if line.startswith(b"data: {"):
            first = time.monotonic() - asked if first is None else first
            usage = json.loads(line[6:]).get("usage") or usage
    connection.close()
    if first is None:
        raise BenchmarkError("the model server sent no token")
    return first, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def in_parallel(count: int, do: Callable[[int], object]) -> None:
    """Call `do` with each number, all at the same time.

    Raises:
        BenchmarkError: one of them failed.
    """
    faults: list[Exception] = []

    def run(number: int) -> None:
        try:
            do(number)
        except Exception as error:  # the edge of the thread
            faults.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise BenchmarkError(f"the model server failed when it was asked directly: {faults[0]!r}")


def as_dict(found: list[Found]) -> dict[str, Any]:
    """Return all figures."""
    return {"machine": machine.facts(), "turn": TURNS, "parties": [asdict(one) for one in found]}


def table(found: list[Found]) -> str:
    """Return what was found, in Markdown."""
    best = found[0]
    rows = [
        [one.party, str(one.slots), f"{one.first_ms:.0f}", f"{one.first_ms / best.first_ms:.2f}", f"{one.cached:.0%}"]
        for one in found
    ]
    head = ["", "slots", f"first token of turn {TURNS}, ms (median)", "by the best possible", "prompt tokens in cache"]
    return markdown(head, rows)
