"""The scenarios: what each measures, with which figures, and how."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from benchmarks import figures, lab, litellm
from benchmarks.large_tasks import LargeTasks
from benchmarks.testbed import BASELINE, DIRECT, GO, IN_FLIGHT, LITELLM, NODE, NODE_SLOTS, Peak, Testbed, cpu_a_task
from benchmarks.upstream import Answering

SETTLED_S = 2.0  # after the last task, before idleness is measured
IDLE_S = 10.0
CHUNKS = 200
PACED = Answering(latency_s=0.15, chunks=10, chunk_s=0.005)
LONG = Answering(latency_s=0.15, chunks=50, chunk_s=0.02)
NODES = (1, 2, 4)
RPM = 600.0
SMALL_CLIENTS = 8


class Against(Enum):
    """How a figure of the node is compared with the same figure of another target."""

    RATIO = "ratio"
    DIFFERENCE = "difference"


@dataclass(frozen=True)
class Figure:
    """One number of a scenario."""

    name: str
    unit: str
    more_is_better: bool = False
    against: Against = Against.RATIO


@dataclass(frozen=True)
class Scenario:
    """One way of measuring.

    `measure` gets the testbed, a target and the size, and returns a number for each figure. `size` is the number of
    tasks (or as many as its function returns), `quick` the same for `--quick`; 0: not in a quick run.
    """

    name: str
    how: str
    figures: tuple[Figure, ...]
    targets: tuple[str, ...]
    measure: Callable[[Testbed, str, int], tuple[float, ...]]
    size: int
    quick: int
    most_repeats: int = 100  # fewer for a scenario that takes long and varies little


def plain(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure plain answers a second."""
    testbed.upstream.answer(Answering())
    with testbed.run(target) as run:
        run.load(size // 4, 64)
        return (figures.per_s(run.load(size, 64)),)


def streams(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure chunks a second of streams."""
    testbed.upstream.answer(Answering(chunks=CHUNKS))
    with testbed.run(target) as run:
        run.load(64, 64, stream=True)
        return (figures.chunks_per_s(run.load(size, 64, stream=True)),)


def added(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the time of a single plain answer."""
    testbed.upstream.answer(Answering(latency_s=0.02))
    with testbed.run(target) as run:
        run.load(10, 1)
        return (figures.answer_ms(run.load(size, 1)),)


def first_chunk(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the time until the first chunk of a single stream."""
    testbed.upstream.answer(PACED)
    with testbed.run(target) as run:
        run.load(3, 1, stream=True)
        return (figures.first_ms(run.load(size, 1, stream=True)),)


def gaps(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the time between two chunks of 64 streams at once."""
    testbed.upstream.answer(LONG)
    with testbed.run(target) as run:
        run.load(64, 64, stream=True)
        return (figures.gap_ms(run.load(size, 64, stream=True)),)


def memory(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the most memory with 128 tasks in flight."""
    testbed.upstream.answer(Answering(latency_s=2))
    with testbed.run(target, slots=128) as run, Peak(run) as peak:
        run.load(size, 128)
    return (peak.mb,)


def idle(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the CPU that the target uses without tasks."""
    testbed.upstream.answer(Answering())
    with testbed.run(target) as run:
        run.load(size, 64)
        time.sleep(SETTLED_S)
        before = run.cpu_s()
        time.sleep(IDLE_S)
        return (100 * (run.cpu_s() - before) / IDLE_S,)


def start(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the time from the start of the process to the first answer. The size is the number of waiting tasks."""
    testbed.upstream.answer(Answering())
    with testbed.model() as (model, clients):
        for _ in range(size):
            clients.ask(stream=False)
        began = time.monotonic()
        with testbed.node(target, model, {"MAX_PROCESS_NUM": 64}):
            first = min(clients.answered().chunks[0] for _ in range(size))
            return (first - began,)


def growth(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the CPU of a plain task with few and with many tasks in flight."""
    testbed.upstream.answer(Answering())
    with testbed.run(target, slots=max(IN_FLIGHT)) as run:
        return cpu_a_task(run, run.load, size)


def nodes(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure tasks a second with several nodes. The size is the number of tasks for each node.

    There are twice as many clients as slots, so that no slot waits for a task.
    """
    testbed.upstream.answer(Answering(latency_s=0.2))
    rates = []
    for count in NODES:
        with testbed.run(target, slots=NODE_SLOTS, nodes=count) as run:
            run.load(count * NODE_SLOTS, count * NODE_SLOTS)
            rates.append(figures.per_s(run.load(count * size, 2 * count * NODE_SLOTS)))
    return *rates, rates[-1] / rates[0]


def limit(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure the used share of a rate limit, and the refused share of the calls.

    The requests that upstream admits at once (a tenth of the limit) count as available at the start.
    """
    testbed.upstream.answer(Answering(rpm=RPM))
    with testbed.run(target) as run:
        samples = run.load(size, 64)
    asked = testbed.upstream.asked()
    seconds = max(one.chunks[-1] for one in samples) - min(one.asked for one in samples)
    could = RPM / 10 + seconds * RPM / 60
    return 100 * (asked.calls - asked.refused) / could, 100 * asked.refused / asked.calls


def large(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure small tasks without and with neighbours of 4 MB.

    Raises:
        BenchmarkError: no large task was answered.
    """
    testbed.upstream.answer(Answering(latency_s=0.02))
    with testbed.run(target, slots=NODE_SLOTS) as run:
        run.load(size // 4, SMALL_CLIENTS)
        alone = figures.answer_ms(run.load(size, SMALL_CLIENTS), 0.99)
        neighbours = LargeTasks(testbed.broker_url, run.model)
        try:
            beside = figures.answer_ms(run.load(size, SMALL_CLIENTS), 0.99)
        finally:
            answered = neighbours.stop()
    if not answered:
        raise figures.BenchmarkError("no large task was answered")
    return alone, beside, beside / alone


SCENARIOS = (
    Scenario(
        "plain", "64 clients, upstream answers at once",
        (Figure("plain tasks", "1/s", more_is_better=True),), (DIRECT, BASELINE, NODE), plain, 2000, 400,
    ),
    Scenario(
        "streams", f"64 clients, {CHUNKS} chunks a stream, all at once",
        (Figure("stream chunks", "1/s", more_is_better=True),), (DIRECT, BASELINE, NODE), streams, 320, 96,
    ),
    Scenario(
        "added", "1 client, upstream takes 20 ms; median",
        (Figure("plain answer", "ms", against=Against.DIFFERENCE),), (DIRECT, BASELINE, NODE), added, 150, 40,
    ),
    Scenario(
        "first", "1 client, first of 10 chunks after 150 ms; median",
        (Figure("first chunk", "ms", against=Against.DIFFERENCE),), (DIRECT, BASELINE, NODE), first_chunk, 20, 6,
    ),
    Scenario(
        "gaps", "64 streams at once of 50 chunks, one every 20 ms; 99 of 100 are shorter",
        (Figure("gap between chunks", "ms"),), (DIRECT, BASELINE, NODE), gaps, 192, 64,
    ),
    Scenario(
        "memory", "128 in flight, upstream takes 2 s; proportional set size of all processes",
        (Figure("memory", "MB"),), (BASELINE, NODE), memory, 384, 128,
    ),
    Scenario(
        "idle", "no tasks for 10 s; CPU of all processes, of one core",
        (Figure("idle CPU", "%"),), (BASELINE, NODE), idle, 64, 0,
    ),
    Scenario(
        "start", "from the start of the process to the first answer",
        (Figure("start", "s"),), (BASELINE, NODE), start, 1, 1,
    ),
    Scenario(
        "growth", "CPU of all processes for a plain task, with 8, 64 and 512 clients",
        (*(Figure(f"CPU a task, {count} in flight", "ms") for count in IN_FLIGHT), Figure("most / least", "×")),
        (BASELINE, NODE), growth, 1000, 300,
    ),
    Scenario(
        "nodes", f"nodes of {NODE_SLOTS} slots, tasks of 200 ms",
        (*(Figure(f"tasks of 200 ms, nodes: {count}", "1/s", more_is_better=True) for count in NODES),
         Figure("speed-up", "×", more_is_better=True)),
        (NODE,), nodes, 320, 64,
    ),
    Scenario(
        "limit", "64 clients, upstream admits 600 calls a minute; once",
        (Figure("share of the limit used", "%", more_is_better=True), Figure("calls refused", "%")),
        (NODE,), limit, 800, 0, most_repeats=1,
    ),
    Scenario(
        "large",
        f"{SMALL_CLIENTS} clients, upstream takes 20 ms; without and with four tasks of 4 MB a second; 99 of 100",
        (Figure("small tasks", "ms"), Figure("small tasks beside tasks of 4 MB", "ms"), Figure("with / without", "×")),
        (BASELINE, NODE), large, 400, 80,
    ),
    Scenario(
        "lab-plain", "lab: 64 clients, upstream answers at once",
        (Figure("lab: plain tasks", "1/s", more_is_better=True),), (GO, NODE), lab.plain, 4000, 400,
    ),
    Scenario(
        "lab-streams", "lab: 64 clients, 200 chunks a stream, all at once",
        (Figure("lab: stream chunks", "1/s", more_is_better=True),), (GO, NODE), lab.streams, 800, 96,
    ),
    Scenario(
        "lab-single", "lab: 1 client, upstream takes 20 ms, for the first of 10 chunks 150 ms; medians",
        (Figure("lab: plain answer", "ms", against=Against.DIFFERENCE),
         Figure("lab: first chunk", "ms", against=Against.DIFFERENCE)),
        (GO, NODE), lab.single, 150, 20,
    ),
    Scenario(
        "lab-memory", "lab: after 12,000 tasks and 400 streams, 128 in flight; proportional set size of all processes",
        (Figure("lab: memory after load", "MB"),), (GO, NODE), lab.memory, 12_000, 600,
    ),
    Scenario(
        "lab-growth", "lab: CPU of all processes for a plain task, with 8, 64 and 512 clients",
        (*(Figure(f"lab: CPU a task, {count} in flight", "ms") for count in IN_FLIGHT),
         Figure("lab: most / least", "×")),
        (GO, NODE), lab.growth, 3000, 400,
    ),
    Scenario(
        "lab-nodes", "lab: nodes of 16 slots, tasks of 200 ms",
        (Figure("lab: tasks of 200 ms, nodes: 1", "1/s", more_is_better=True),
         Figure("lab: tasks of 200 ms, nodes: 4", "1/s", more_is_better=True),
         Figure("lab: speed-up", "×", more_is_better=True)),
        (GO, NODE), lab.nodes, 480, 0,
    ),
    Scenario(
        "litellm", "64 clients, upstream answers at once; 1 client, upstream takes 20 ms",
        (Figure("plain answers", "1/s", more_is_better=True), Figure("time added to an answer", "ms"),
         Figure("memory", "MB"), Figure("start to the first answer", "s")),
        (LITELLM, NODE), litellm.measure, 2000, 0, most_repeats=1,
    ),
)  # fmt: skip
